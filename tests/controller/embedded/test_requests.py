"""Requests taken apart."""

from __future__ import annotations

import pytest

from controller.embedded import views
from controller.embedded.requests import Target, parse_path
from controller.embedded.status import ApiError


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api/v1/pods", Target("", "v1", None, "pods", "", "")),
        ("/api/v1/namespaces", Target("", "v1", None, "namespaces", "", "")),
        ("/api/v1/namespaces/a", Target("", "v1", None, "namespaces", "a", "")),
        ("/api/v1/namespaces/a/status", Target("", "v1", None, "namespaces", "a", "status")),
        ("/api/v1/namespaces/a/pods/p/log", Target("", "v1", "a", "pods", "p", "log")),
        ("/apis/apps/v1/namespaces/a/deployments/d/scale", Target("apps", "v1", "a", "deployments", "d", "scale")),
        ("/apis/x.dev/v1/things/t", Target("x.dev", "v1", None, "things", "t", "")),
        ("/api", None),
        ("/api/v1", None),
        ("/apis/apps/v1", None),
        ("/api/v1/namespaces/a/pods/p/log/more", None),
        ("/api/v1//pods", None),
        ("/openapi/v2", None),
    ],
)
def test_a_path_names_a_resource_or_nothing(path: str, target: Target | None) -> None:
    """Group, version, namespace, resource, name and subresource by their places."""
    assert parse_path(path) == target


@pytest.mark.parametrize(
    ("accept", "shape"),
    [
        ("", views.OBJECT),
        ("*/*", views.OBJECT),
        ("application/json", views.OBJECT),
        ("application/vnd.kubernetes.protobuf, application/json", views.OBJECT),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", views.TABLE),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", views.TABLE),
        ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", views.OBJECT),
        ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", views.PARTIAL),
        ("application/json;stream=watch", views.OBJECT),
    ],
)
def test_the_first_media_range_we_can_write_wins(accept: str, shape: str) -> None:
    """Unknown shapes and media types are skipped."""
    assert views.negotiate(accept, "").shape == shape


def test_nothing_we_can_write_is_406() -> None:
    """Protobuf alone, or a shape nobody knows, is not acceptable."""
    for accept in ("application/vnd.kubernetes.protobuf", "application/json;as=Cake;v=v1;g=meta.k8s.io"):
        with pytest.raises(ApiError) as refused:
            views.negotiate(accept, "")
        assert refused.value.code == 406

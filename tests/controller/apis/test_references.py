from controller.apis.references import (
    configuration_reference,
    label_reference,
    references,
    revision_reference,
    route_reference,
)


def test_a_service_refers_to_one_label_of_its_selector():
    """A Service without a selector refers to nothing, and a Knative Service is none of these."""
    service = {"apiVersion": "v1", "kind": "Service", "spec": {"selector": {"b": "2", "a": "1"}}}
    assert references(service) == {label_reference("a", "1")}
    assert references({**service, "spec": {}}) == frozenset()
    assert references({**service, "apiVersion": "serving.knative.dev/v1"}) == frozenset()


def test_a_route_refers_to_its_targets():
    """Each Configuration and Revision that traffic is sent to, once."""
    traffic = [{"configurationName": "c"}, {"revisionName": "r"}, {"configurationName": "c", "tag": "t"}]
    route = {"apiVersion": "serving.knative.dev/v1", "kind": "Route", "spec": {"traffic": traffic}}
    assert references(route) == {configuration_reference("c"), revision_reference("r")}
    assert references({**route, "spec": {}}) == frozenset()


def test_what_routes_left_their_names_on_refers_to_them():
    """A Configuration or a Revision, by its annotation."""
    metadata = {"annotations": {"serving.knative.dev/routes": "a,b"}}
    for kind in ("Configuration", "Revision"):
        found = references({"apiVersion": "serving.knative.dev/v1", "kind": kind, "metadata": metadata})
        assert found == {route_reference("a"), route_reference("b")}
        assert references({"apiVersion": "serving.knative.dev/v1", "kind": kind, "metadata": {}}) == frozenset()

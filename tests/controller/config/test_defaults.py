"""config-defaults: every key, its default and its bounds."""

import pytest

from controller.config.defaults import DefaultsConfig, parse


def test_defaults_are_knatives() -> None:
    """An empty map gives Knative's numbers and the container name user-container."""
    config = parse({})
    assert config == DefaultsConfig()
    assert config.container_name_template.render({"Name": "x"}) == "user-container"


def test_every_key_is_read() -> None:
    """Each key sets its field."""
    config = parse(
        {
            "revision-timeout-seconds": "100",
            "max-revision-timeout-seconds": "1000",
            "revision-response-start-timeout-seconds": "50",
            "revision-idle-timeout-seconds": "20",
            "revision-cpu-request": "100m",
            "revision-cpu-limit": "1",
            "revision-memory-request": "64Mi",
            "revision-memory-limit": "1Gi",
            "revision-ephemeral-storage-request": "1G",
            "revision-ephemeral-storage-limit": "2G",
            "container-name-template": "{{.Name}}-main",
            "init-container-name-template": "init",
            "container-concurrency": "5",
            "container-concurrency-max-limit": "50",
            "allow-container-concurrency-zero": "false",
            "enable-service-links": "default",
        }
    )
    assert (config.revision_timeout_seconds, config.max_revision_timeout_seconds) == (100, 1000)
    assert (config.revision_response_start_timeout_seconds, config.revision_idle_timeout_seconds) == (50, 20)
    assert (config.revision_cpu_request, config.revision_cpu_limit) == ("100m", "1")
    assert (config.revision_memory_request, config.revision_memory_limit) == ("64Mi", "1Gi")
    assert (config.revision_ephemeral_storage_request, config.revision_ephemeral_storage_limit) == ("1G", "2G")
    assert config.container_name_template.render({"Name": "hello", "Namespace": "ns"}) == "hello-main"
    assert config.init_container_name_template.render({}) == "init"
    assert (config.container_concurrency, config.container_concurrency_max_limit) == (5, 50)
    assert config.allow_container_concurrency_zero is False
    assert config.enable_service_links is None


def test_response_start_follows_the_timeout() -> None:
    """Unset, the response-start timeout is the revision timeout."""
    assert parse({"revision-timeout-seconds": "42"}).revision_response_start_timeout_seconds == 42


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"revision-timeout-seconds": "601"}, "at most max-revision-timeout-seconds, which is 600"),
        ({"revision-timeout-seconds": "0"}, "a whole number of at least 1"),
        ({"revision-response-start-timeout-seconds": "700"}, "at most max-revision-timeout-seconds"),
        ({"revision-idle-timeout-seconds": "700"}, "at most max-revision-timeout-seconds"),
        ({"revision-idle-timeout-seconds": "-1"}, "a whole number"),
        ({"max-revision-timeout-seconds": "five"}, "a whole number"),
        ({"revision-cpu-request": "a lot"}, "a quantity"),
        ({"revision-memory-limit": "-1Mi"}, "a quantity"),
        ({"container-concurrency": "1001"}, "from 0 to 1000"),
        ({"container-concurrency-max-limit": "0"}, "at least 1"),
        ({"allow-container-concurrency-zero": "false"}, "at least 1 while allow-container-concurrency-zero is false"),
        ({"allow-container-concurrency-zero": "maybe"}, "true or false"),
        ({"enable-service-links": "maybe"}, "one of true, false, default"),
        ({"container-name-template": "{{.Domain}}"}, "is not one of"),
        ({"init-container-name-template": "Init"}, "does not fit"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bounds(refusal, data: dict[str, str], words: str) -> None:
    """Out of bounds: the error names the map, the key and what would be right."""
    message = refusal(parse, data)
    assert message.startswith("config-defaults: ")
    assert words in message

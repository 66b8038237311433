from controller.apis.revision import is_scaling

REVISION = {
    "metadata": {"name": "r", "labels": {"a": "b"}, "resourceVersion": "1", "managedFields": [{"time": "t"}]},
    "spec": {"containers": [{"image": "i"}]},
    "status": {
        "observedGeneration": 1,
        "actualReplicas": 0,
        "conditions": [{"type": "Active", "status": "False"}, {"type": "Ready", "status": "True"}],
    },
}


def test_replicas_and_active_are_scale():
    """What changes with each start from zero is nobody else's business; all the rest is."""
    status = REVISION["status"]
    conditions = [{"type": "Active", "status": "True"}, {"type": "Ready", "status": "True"}]
    scaled = {
        **REVISION,
        "metadata": {**REVISION["metadata"], "resourceVersion": "2", "managedFields": []},
        "status": {**status, "actualReplicas": 1, "desiredReplicas": 1, "conditions": conditions},
    }
    assert is_scaling(REVISION, scaled)
    failed = {**status, "conditions": [*conditions[:1], {"type": "Ready", "status": "False"}]}
    assert not is_scaling(REVISION, {**REVISION, "status": failed})
    assert not is_scaling(REVISION, {**REVISION, "status": {}})
    assert not is_scaling(REVISION, {**REVISION, "spec": {"containers": []}})
    assert not is_scaling(REVISION, {**REVISION, "metadata": {**REVISION["metadata"], "labels": {}}})

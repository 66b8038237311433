import asyncio
import json

import pytest
from aiohttp import web

from controller.apis import kinds
from controller.apis.meta import Key
from controller.kube.client import APPLY_PATCH, REQUESTS_AT_ONCE, KubeClient, object_path
from controller.kube.errors import AlreadyExists, Unauthorized, Unavailable


def recording(seen, answer=None, status=200):
    async def handle(request):
        seen.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        return web.json_response(answer or {"kind": "Echo"}, status=status)

    return handle


@pytest.mark.parametrize(
    ("kind", "namespace", "name", "subresource", "path"),
    [
        (kinds.POD, "default", "a", "", "/api/v1/namespaces/default/pods/a"),
        (kinds.NAMESPACE, "", "default", "", "/api/v1/namespaces/default"),
        (kinds.DEPLOYMENT, "x", "d", "scale", "/apis/apps/v1/namespaces/x/deployments/d/scale"),
        (kinds.SERVICE, "x", "a/b", "status", "/apis/serving.knative.dev/v1/namespaces/x/services/a%2Fb/status"),
    ],
)
def test_paths(kind, namespace, name, subresource, path):
    """Core kinds live under /api/v1, all others under /apis/GROUP/VERSION; a name can't leave its segment."""
    assert object_path(kind, namespace, name, subresource) == path


async def test_each_verb_is_one_request(serve):
    """Method, path, query, content type and body of every call are what the Kubernetes API expects."""
    seen = []
    async with KubeClient.from_token(await serve(recording(seen)), token="secret") as kube:
        key = Key("ns", "a")
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "ns", "name": "a"}}
        await kube.get(kinds.POD, key)
        await kube.list(kinds.POD, label_selector="a=b", limit=5, continue_="t")
        await kube.create(kinds.POD, pod, strict=True)
        await kube.update(kinds.POD, pod, subresource="status")
        await kube.patch(kinds.POD, key, pod, content_type=APPLY_PATCH, field_manager="me", force=True)
        await kube.delete(kinds.POD, key, uid="u1", grace_period=0)
    assert [(method, path) for method, path, _, _ in seen] == [
        ("GET", "/api/v1/namespaces/ns/pods/a"),
        ("GET", "/api/v1/pods?labelSelector=a%3Db&limit=5&continue=t"),
        ("POST", "/api/v1/namespaces/ns/pods?fieldValidation=Strict"),
        ("PUT", "/api/v1/namespaces/ns/pods/a/status"),
        ("PATCH", "/api/v1/namespaces/ns/pods/a?fieldManager=me&force=true"),
        ("DELETE", "/api/v1/namespaces/ns/pods/a"),
    ]
    assert {headers["Authorization"] for _, _, headers, _ in seen} == {"Bearer secret"}
    assert seen[4][2]["Content-Type"] == APPLY_PATCH
    assert json.loads(seen[5][3])["preconditions"] == {"uid": "u1"}
    assert json.loads(seen[5][3])["gracePeriodSeconds"] == 0


async def test_a_refusal_is_raised_with_the_servers_message(serve):
    """The Status object of a failure becomes the exception."""
    status = {"kind": "Status", "code": 409, "reason": "AlreadyExists", "message": 'pods "a" already exists'}
    async with KubeClient.from_token(await serve(recording([], status, 409))) as kube:
        with pytest.raises(AlreadyExists, match='pods "a" already exists'):
            await kube.get(kinds.POD, Key("ns", "a"))


async def test_no_server_is_unavailable(unused_tcp_port):
    """A refused connection is one clear sentence, not aiohttp's exception."""
    async with KubeClient.from_token(f"http://127.0.0.1:{unused_tcp_port}") as kube:
        with pytest.raises(
            Unavailable, match=r"can't reach the API server http://127.0.0.1:[0-9]+: Connection refused$"
        ):
            await kube.get(kinds.POD, Key("ns", "a"))


async def test_redirects_are_not_followed(serve):
    """A credential is for one server only."""

    async def handle(request):
        return web.Response(status=302, headers={"Location": "http://example.invalid/"})

    async with KubeClient.from_token(await serve(handle), token="secret") as kube:
        with pytest.raises(Exception, match="302"):
            await kube.get(kinds.POD, Key("ns", "a"))


async def test_a_loopback_server_is_reached_without_the_environments_proxy(serve, monkeypatch):
    """A proxy for the outside must not see the traffic to a server on this machine."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with KubeClient.from_token(await serve(recording([]))) as kube:
        assert await kube.get(kinds.POD, Key("ns", "a")) == {"kind": "Echo"}


async def test_a_kubeconfig_gives_server_and_credential_and_a_401_reads_it_again(serve, tmp_path):
    """A token that expired is replaced by what the file holds now; a second 401 is the caller's."""
    valid = {"Bearer new"}

    async def handle(request):
        ok = request.headers.get("Authorization") in valid
        return web.json_response({"kind": "Echo"}, status=200 if ok else 401)

    path = tmp_path / "kubeconfig"
    url = await serve(handle)

    def write(token):
        path.write_text(
            json.dumps(
                {
                    "current-context": "c",
                    "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                    "clusters": [{"name": "k", "cluster": {"server": url}}],
                    "users": [{"name": "u", "user": {"token": token}}],
                }
            )
        )

    write("old")
    async with await KubeClient.from_kubeconfig(str(path)) as kube:
        write("new")
        assert await kube.get(kinds.POD, Key("ns", "a")) == {"kind": "Echo"}
        valid.clear()
        with pytest.raises(Unauthorized):
            await kube.get(kinds.POD, Key("ns", "a"))


async def test_a_missing_kubeconfig_names_the_file(tmp_path):
    """What is wrong and where, in one sentence."""
    with pytest.raises(Unavailable, match="nowhere"):
        await KubeClient.from_kubeconfig(str(tmp_path / "nowhere"))


async def test_a_silent_stream_ends_with_unavailable(serve):
    """A connection that says nothing for longer than the read time-out is given up."""
    done = asyncio.Event()

    async def handle(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one")
        await done.wait()
        return response

    got = []

    async def read(kube):
        async with kube.stream(kinds.POD, Key("", ""), query={"watch": "true"}, read_timeout=0.05) as chunks:
            got.append(await anext(chunks))
            await anext(chunks)

    async with KubeClient.from_token(await serve(handle)) as kube:
        with pytest.raises(Unavailable):
            await read(kube)
    assert got == [b"one"]
    done.set()


async def test_a_burst_of_requests_shares_a_few_connections(serve):
    """Requests beyond the limit wait for a connection instead of opening one; streams have theirs beside them."""
    peers = set()

    async def handle(request):
        peers.add(request.transport.get_extra_info("peername"))
        await asyncio.sleep(0)
        return web.json_response({})

    async with KubeClient.from_token(await serve(handle)) as kube:
        await asyncio.gather(*(kube.get(kinds.POD, Key("ns", str(n))) for n in range(3 * REQUESTS_AT_ONCE)))
        assert len(peers) <= REQUESTS_AT_ONCE
        async with kube.stream(kinds.POD, Key("ns", ""), query={}):
            assert len(peers) <= REQUESTS_AT_ONCE + 1

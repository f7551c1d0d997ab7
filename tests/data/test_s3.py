"""V and runs on S3: moto's server on loopback, whose answers may fail as those of a real one do."""

from __future__ import annotations

import random
import socket
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr

from dasknmf import NMF, open_run
from dasknmf.errors import (
    DaskNMFError,
    RunAccessError,
    RunLockedError,
    SourceError,
    UnavailableError,
)
from dasknmf.io import retry
from dasknmf.store import keys, lock
from dasknmf.store.lock import Lock

pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")

PARAMETERS = {"n_components": 3, "init": "random", "random_state": 0, "tol": 0}
ERROR = '<?xml version="1.0"?><Error><Code>{}</Code><Message>{}</Message></Error>'


class Faulty:
    """A server's application of which some answers fail.

    Parameters
    ----------
    app : WSGI application
    """

    def __init__(self, app):
        self.app = app
        self.fault = None
        """A function of method, path and number of requests so far: the fault of the request, or None."""
        self.requests = Counter()
        self.failed = 0
        self._lock = threading.Lock()

    def __call__(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._lock:
            self.requests[method] += 1
            kind = self.fault and self.fault(method, path, self.requests.total())
            self.failed += kind is not None
        if kind in (None, "slow"):
            time.sleep(0.2 if kind else 0)
            return self.app(environ, start_response)
        if kind == "closed":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        status, code = kind
        # What was sent is read, or the client would see a connection that breaks.
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(f"{status} {code}", [("Content-Type", "application/xml")])
        return [] if method == "HEAD" else [ERROR.format(code, f"{code}, says the test").encode()]


@pytest.fixture(scope="module")
def server():
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *args):
            pass

        def log(self, *args):
            pass

    app = Faulty(DomainDispatcherApplication(create_backend_app))
    served = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    app.url = f"http://127.0.0.1:{served.server_address[1]}"
    yield app
    served.shutdown()
    thread.join(10)
    served.server_close()


@pytest.fixture
def bucket(server, monkeypatch, request):
    """The URL of a bucket of its own, with V in it."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.url,
        "AWS_MAX_ATTEMPTS": "1",  # of botocore; s3fs has retries of its own
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(lock, "_SETTLE", 0.02)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{abs(hash(request.node.name))}"
    s3fs.S3FileSystem().mkdir(name)
    array = zarr.create_array(f"s3://{name}/v.zarr", shape=(60, 7), chunks=(30, 7), dtype="f8")
    array[:] = V()
    server.failed, server.fault = 0, None
    yield f"s3://{name}"
    server.fault = None
    s3fs.S3FileSystem.clear_instance_cache()


def V():
    rng = np.random.default_rng(0)
    return rng.gamma(1.0, size=(60, 3)) @ rng.gamma(1.0, size=(3, 7)) + 0.01


def fit(X, checkpoint, max_iter=3, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return NMF(**PARAMETERS, max_iter=max_iter).fit(X, checkpoint=checkpoint, **options)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The same fit on a disk."""
    path = tmp_path_factory.mktemp("local")
    array = zarr.create_array(path / "v.zarr", shape=(60, 7), chunks=(30, 7), dtype="f8")
    array[:] = V()
    fit(str(path / "v.zarr"), path / "run")
    return open_run(path / "run")


def assert_same(url, local):
    run = open_run(url)
    assert run.status == "max_iter"
    np.testing.assert_array_equal(run.H, local.H)
    np.testing.assert_array_equal(run.W.compute(), local.W.compute())


def at_times(share, kind, methods=("GET", "HEAD", "PUT", "DELETE", "POST")):
    """Some of the requests; not each so many: what takes as many would never end."""

    def fault(method, path, count):
        return kind if method in methods and random.Random(count).random() < share else None

    return fault


@pytest.mark.slow
def test_a_fit_is_that_on_a_disk(bucket, local):
    fit(f"{bucket}/v.zarr", f"{bucket}/run", 1)
    fit(f"{bucket}/v.zarr", f"{bucket}/run", 3, stage="memory")
    assert_same(f"{bucket}/run", local)
    assert sum(open_run(f"{bucket}/run").history.columns()["retries"]) == 0


@pytest.mark.parametrize(
    "kind",
    [
        (503, "SlowDown"),
        pytest.param((500, "InternalError"), marks=pytest.mark.slow),
        pytest.param((400, "RequestTimeout"), marks=pytest.mark.slow),
        pytest.param("closed", marks=pytest.mark.slow),
        pytest.param("slow", marks=pytest.mark.slow),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else str(value),
)
def test_transient_failures_are_retried(bucket, local, server, kind):
    # A HEAD that is refused with 400 has no body that names the reason.
    methods = ("GET", "PUT") if kind == (400, "RequestTimeout") else ("GET", "HEAD", "PUT", "DELETE", "POST")
    server.fault = at_times(0.05, kind, methods)
    fit(f"{bucket}/v.zarr", f"{bucket}/run")
    server.fault = None
    assert server.failed > 0
    assert_same(f"{bucket}/run", local)
    if kind != "closed":  # a connection that was there before: below s3fs, aiohttp retries by itself
        assert (sum(open_run(f"{bucket}/run").history.columns()["retries"]) > 0) == (kind != "slow")


@pytest.mark.slow
def test_retries_of_s3fs_are_not_counted(bucket, local, server, monkeypatch):
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 5)
    server.fault = at_times(0.2, (503, "SlowDown"), methods=("GET", "PUT"))  # HEAD has no body
    fit(f"{bucket}/v.zarr", f"{bucket}/run")
    server.fault = None
    assert server.failed > 3
    assert_same(f"{bucket}/run", local)
    assert sum(open_run(f"{bucket}/run").history.columns()["retries"]) == 0


@pytest.mark.parametrize(
    "code",
    [
        "AccessDenied",
        pytest.param("ExpiredToken", marks=pytest.mark.slow),
        pytest.param("InvalidAccessKeyId", marks=pytest.mark.slow),
    ],
)
def test_forbidden_requests_fail_at_once(bucket, server, code):
    fit(f"{bucket}/v.zarr", f"{bucket}/run", 1)
    name = bucket.removeprefix("s3://")
    for part, error, place in (("/v.zarr/c/", SourceError, "v.zarr"), ("/run/W/", RunAccessError, "/run")):

        def refused(method, path, count, part=part):
            return (400 if code == "ExpiredToken" else 403, code) if part in path else None

        server.fault, began, before = refused, time.monotonic(), server.requests.total()
        with pytest.raises(error, match=f"{code}|Forbidden|Bad Request") as raised:
            fit(f"{bucket}/v.zarr", f"{bucket}/run", 3)
        server.fault = None
        assert name in str(raised.value)
        assert place in str(raised.value)
        assert time.monotonic() - began < 20
        assert server.requests.total() - before < 200
        assert "secret-of-the-test" not in str(raised.value)
    fit(f"{bucket}/v.zarr", f"{bucket}/run", 3)


@pytest.mark.slow
def test_a_bucket_that_is_out_of_reach_is_waited_for_and_then_left(bucket, local, server):
    server.fault = lambda method, path, count: (503, "SlowDown") if count - before > 120 else None
    before = server.requests.total()
    with pytest.raises(UnavailableError, match="repeat the same call"):
        fit(f"{bucket}/v.zarr", f"{bucket}/run")
    server.fault = None
    fit(f"{bucket}/v.zarr", f"{bucket}/run")
    assert_same(f"{bucket}/run", local)


def test_of_two_starters_at_most_one_writes(bucket, monkeypatch):
    """Keys are created where they are not, and nowhere else: S3 knows If-None-Match."""
    monkeypatch.setattr(lock, "_LEASE", 0.0)

    def started(number):
        try:
            return Lock(keys.opened(f"{bucket}/run"))
        except DaskNMFError as error:
            assert isinstance(error, RunLockedError)  # noqa: PT017
            return None

    with ThreadPoolExecutor(4) as pool:
        held = [each for each in pool.map(started, range(4)) if each is not None]
    assert len([each for each in held if each.is_held()]) <= 1
    for each in held:
        each.release()
    # Afterwards it is free.
    Lock(keys.opened(f"{bucket}/run")).release()


def test_a_lock_that_is_there_is_not_written_over(bucket):
    store = keys.opened(f"{bucket}/run")
    keys.put_if_absent(store, "lock", b"first")
    keys.put_if_absent(store, "lock", b"second")
    assert keys.get(store, "lock", 100) == b"first"


@pytest.mark.slow
def test_a_cluster_factorizes_on_s3(bucket, local, server):
    from distributed import Client, LocalCluster

    server.fault = at_times(0.02, (503, "SlowDown"))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster),
    ):
        fit(f"{bucket}/v.zarr", f"{bucket}/run")
    server.fault = None
    assert_same(f"{bucket}/run", local)

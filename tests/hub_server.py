"""A Hub on loopback: what huggingface_hub's client needs to create, fill and read model repositories.

Repositories live in memory. Any request can be made to fail: `Fault(at=3, kind="500")` fails the third one,
`kind="cut"` breaks its connection midway, with the request read and obeyed (`obeyed=True`) or not.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_ABOVE_BYTES = 10_000
LFS_SUFFIXES = (".safetensors", ".bin", ".png")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]+)?")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Fault:
    """What goes wrong at one request.

    Attributes:
        at: number of the request, counted from 1 since the fault was set.
        kind: a status, such as "500", or "cut": the connection is closed without a whole answer.
        obeyed: whether a cut request had its effect.
        times: how many requests fail from there on.
    """

    at: int
    kind: str
    obeyed: bool = False
    times: int = 1


@dataclass
class Repository:
    """One repository: commits by number, and where each branch stands."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def add(self, branch: str, files: dict[str, bytes], message: str) -> str:
        number = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits[number] = files
        self.messages.append(message)
        self.branches[branch] = number
        return number

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        number = self.branches.get(revision, revision)
        return (number, self.commits[number]) if number in self.commits else None


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: object) -> None:
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


class Hub:
    """The server's memory, and how to start and stop it."""

    def __init__(self, token: str = "hf_loopback", user: str = "tester") -> None:
        self.token, self.user = token, user
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.is_serving = False
        self._since_fault = 0
        self._lock = threading.Lock()

    def fail(self, *faults: Fault) -> None:
        """Count requests anew, and let these fail."""
        with self._lock:
            self.faults, self._since_fault = list(faults), 0

    def content(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Files of a repository by path."""
        found = self.repositories[name].files(revision)
        return found[1] if found else {}

    def next_fault(self, request: str) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            self._since_fault += 1
            for fault in self.faults:
                if fault.at <= self._since_fault < fault.at + fault.times:
                    return fault
        return None

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve until the block ends; gives the address."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        self.is_serving = True
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            self.is_serving = False
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet an answer: the client need not wait for its second half

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    # ---- one request ----

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.route, self.query = unquote(url.path), parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.hub.is_serving:  # a connection that was kept open
            return self._cut()
        fault = self.hub.next_fault(f"{self.command} {url.path}")
        if fault is not None and fault.kind == "cut":
            if fault.obeyed:
                self._obey()
            return self._cut()
        if fault is not None:
            return self._send(int(fault.kind), {"error": f"injected {fault.kind}"}, {"Retry-After": "0"})
        status, payload, headers = self._obey()
        self._send(status, payload, headers)

    def _obey(self) -> tuple[int, object, dict[str, str]]:
        try:
            for method, pattern, does in _ROUTES:
                match = re.fullmatch(pattern, self.route)
                if match and self.command in method:
                    given = does(self, **match.groupdict())
                    payload, headers = given if isinstance(given, tuple) else (given, {})
                    return 200, payload, headers
            raise Refusal(404, f"no such route: {self.route}")
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            return refusal.status, {"error": str(refusal), **refusal.more}, headers | {"X-Error-Message": str(refusal)}

    def _send(self, status: int, payload: object, headers: dict[str, str]) -> None:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "Content-Type": "application/json"} | headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _cut(self) -> None:
        """Promise an answer, give the beginning of it, and hang up."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nContent-Type: application/json\r\n\r\n{")
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    # ---- who and what ----

    def _require_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            raise Refusal(401, "Invalid username or password.")

    def _repository(self, name: str) -> Repository:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and self.headers.get("Authorization") != f"Bearer {self.hub.token}"):
            raise Refusal(404 if self.headers.get("Authorization") else 401, "Repository not found", "RepoNotFound")
        return found

    def _files(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        found = self._repository(name).files(revision)
        if found is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def _json(self) -> dict[str, object]:
        return json.loads(self.body)

    # ---- writing ----

    def whoami(self) -> object:
        self._require_token()
        return {"type": "user", "name": self.hub.user, "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    def create(self) -> object:
        self._require_token()
        asked = self._json()
        owner = asked.get("organization") or self.hub.user
        if owner != self.hub.user:
            raise Refusal(403, f"You don't have the rights to create a model under the namespace {owner}")
        name = f"{owner}/{asked['name']}"
        url = f"http://{self.headers['Host']}/{name}"
        if name in self.hub.repositories:
            raise Refusal(409, "You already created this model repo", url=url)
        made = self.hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
        made.add("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return {"url": url, "name": name, "id": name}

    def branch(self, name: str, branch: str) -> object:
        self._require_token()
        repository = self._repository(name)
        if branch in repository.branches:
            raise Refusal(409, "Reference already exists")
        repository.branches[branch] = repository.branches["main"]
        return {}

    def preupload(self, name: str, revision: str) -> object:
        self._require_token()
        _, files = self._files(name, revision)
        answers = []
        for file in self._json()["files"]:
            path, size = file["path"], file["size"]
            is_lfs = path.endswith(LFS_SUFFIXES) or size > LFS_ABOVE_BYTES
            present = files.get(path)
            oid = None if present is None else _oid(present, is_lfs)
            mode = "lfs" if is_lfs else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answers}

    def lfs_batch(self, name: str) -> object:
        self._require_token()
        self._repository(name)
        objects = []
        for wanted in self._json()["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.blobs:
                base = f"http://{self.headers['Host']}"
                entry["actions"] = {
                    "upload": {"href": f"{base}/lfs/{wanted['oid']}", "header": {}},
                    "verify": {"href": f"{base}/{name}.git/info/lfs/verify", "header": {}},
                }
            objects.append(entry)
        return {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"}

    def lfs_put(self, oid: str) -> object:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "content does not match its hash")
        self.hub.blobs[oid] = self.body
        return {}

    def lfs_verify(self, name: str) -> object:
        self._require_token()
        if self._json()["oid"] not in self.hub.blobs:
            raise Refusal(404, "object not found")
        return {}

    def commit(self, name: str, revision: str) -> object:
        self._require_token()
        repository = self._repository(name)
        if revision not in repository.branches:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = dict(self._files(name, revision)[1])
        message = ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise Refusal(400, f"LFS object {value['oid']} was never uploaded")
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        number = repository.add(revision, files, message)
        url = f"http://{self.headers['Host']}/{name}/commit/{number}"
        return {"success": True, "commitOid": number, "commitUrl": url}

    def validate(self) -> object:
        errors = card_errors(str(self._json()["content"]))
        if errors:
            raise Refusal(400, "; ".join(errors), errors=[{"message": error} for error in errors], warnings=[])
        return {"errors": [], "warnings": []}

    # ---- reading ----

    def info(self, name: str, revision: str = "main") -> object:
        number, files = self._files(name, revision)
        repository = self._repository(name)
        siblings = [{"rfilename": path} for path in sorted(files)]
        return {"id": name, "modelId": name, "sha": number, "private": repository.private, "siblings": siblings}

    def tree(self, name: str, revision: str) -> object:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content, is_lfs=False)}
            for path, content in sorted(self._files(name, revision)[1].items())
        ]

    def resolve(self, name: str, revision: str, path: str) -> object:
        number, files = self._files(name, revision)
        if path not in files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        etag = f'"{hashlib.sha256(files[path]).hexdigest()}"'
        return files[path], {"ETag": etag, "X-Repo-Commit": number, "Content-Type": "application/octet-stream"}


_NAME, _REVISION = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>.+)"
_ROUTES: tuple[tuple[tuple[str, ...], str, Callable[..., object]], ...] = (
    (("GET",), "/api/whoami-v2", _Handler.whoami),
    (("POST",), "/api/repos/create", _Handler.create),
    (("POST",), "/api/validate-yaml", _Handler.validate),
    (("POST",), rf"/api/models/{_NAME}/branch/(?P<branch>.+)", _Handler.branch),
    (("POST",), rf"/api/models/{_NAME}/preupload/{_REVISION}", _Handler.preupload),
    (("POST",), rf"/api/models/{_NAME}/commit/{_REVISION}", _Handler.commit),
    (("POST",), rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (("POST",), rf"/{_NAME}\.git/info/lfs/verify", _Handler.lfs_verify),
    (("PUT",), "/lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_put),
    (("GET",), rf"/api/models/{_NAME}", _Handler.info),
    (("GET",), rf"/api/models/{_NAME}/revision/{_REVISION}", _Handler.info),
    (("GET",), rf"/api/models/{_NAME}/tree/(?P<revision>[^/]+)", _Handler.tree),
    (("GET", "HEAD"), rf"/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
)


def card_errors(content: str) -> list[str]:
    """What the Hub would object to in a card's metadata."""
    match = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", content, re.DOTALL)
    if match is None:
        return ["the card has no metadata"]
    try:
        data = yaml.safe_load(match.group(1))
    except yaml.YAMLError as error:
        return [f"the metadata is no YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata is no mapping"]
    errors = []

    def several(name: str) -> list[object]:
        value = data.get(name, [])
        return value if isinstance(value, list) else [value]

    errors += [f'"language" holds {code!r}' for code in several("language") if not LANGUAGE.fullmatch(str(code))]
    for name in ("base_model", "datasets"):
        errors += [f'"{name}" holds {value!r}' for value in several(name) if not REPOSITORY.fullmatch(str(value))]
    for name in ("tags", "metrics"):
        errors += [f'"{name}" holds {value!r}' for value in several(name) if not isinstance(value, str)]
    for number, model in enumerate(data.get("model-index", [])):
        for place, result in enumerate(model.get("results", [])):
            wanted = {"task": ["type"], "dataset": ["type", "name"]}
            errors += [
                f'"model-index[{number}].results[{place}].{part}.{key}" is required'
                for part, keys in wanted.items()
                for key in keys
                if not isinstance(result.get(part, {}).get(key), str)
            ]
            if not result.get("metrics"):
                errors.append(f'"model-index[{number}].results[{place}].metrics" is required')
    return errors


def _oid(content: bytes, is_lfs: bool) -> str:
    """The identifier that git, or git LFS, gives to a content."""
    return (
        hashlib.sha256(content).hexdigest()
        if is_lfs
        else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    )

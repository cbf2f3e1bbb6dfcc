"""The artifacts of the test server: their versions and aliases, and the files they hold.

A client makes an artifact in four steps: CreateArtifact; CreateArtifactFiles, which gives a URL for
each file that the server does not have yet; a PUT of each file, and of the manifest that names
them; CommitArtifact, which makes the artifact a version and moves its aliases to it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import Literal
from urllib.parse import quote

from support.wandb_server_runs import Json

KEPT_BYTES = 8 << 20
"""Larger files are hashed and counted, not kept: they can be sent, and not be fetched."""

_CHUNK_BYTES = 1 << 20
_LONG_AGO = "2020-01-01T00:00:00Z"


class RefusedError(Exception):
    """An operation cannot be carried out; the client gets the text as a GraphQL error."""


@dataclass(frozen=True)
class Upload:
    """The body of one PUT as it arrived."""

    size_bytes: int
    md5: str
    """In base64, as manifests have it; of a body that was cut off, of what came."""
    promised_md5: str | None
    """What the header `Content-MD5` says."""
    content: bytes | None
    """None: more than `KEPT_BYTES`."""

    @classmethod
    def receive(cls, stream: BufferedIOBase, length: int, promised_md5: str | None) -> Upload:
        """Read a body of `length` bytes piece by piece."""
        digest, size_bytes, kept = hashlib.md5(usedforsecurity=False), 0, bytearray()
        while chunk := stream.read(min(_CHUNK_BYTES, length - size_bytes)):
            digest.update(chunk)
            size_bytes += len(chunk)
            if length <= KEPT_BYTES:
                kept += chunk
        md5 = base64.b64encode(digest.digest()).decode()
        return cls(size_bytes, md5, promised_md5, bytes(kept) if length <= KEPT_BYTES else None)


@dataclass
class ServerArtifact:
    """One artifact as the server knows it; a version once it is committed.

    Threads: the server's threads write it under the server's lock, any thread reads it.
    """

    id: str
    client_id: str
    collection: tuple[str, str, str]
    """Entity, project and name."""
    type: str
    run_id: str | None
    digest: str
    metadata: Json
    wanted_aliases: list[str]
    """What it is to be called once it is committed."""
    state: Literal["PENDING", "COMMITTED", "DELETED"] = "PENDING"
    version: str | None = None
    """`v0`, `v1` and so on; None until it is committed."""
    aliases: list[str] = field(default_factory=list)
    """What it is called now."""
    manifest: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Size and MD5 (in base64) of each file by its path; empty until it is committed."""
    files: dict[str, bytes | None] = field(default_factory=dict)
    """The content of each file by its path; None where it is larger than `KEPT_BYTES`."""
    uploaded_bytes: int = 0
    """How much the client sent for its files and manifest; what the server had is not sent."""
    used_by: list[str] = field(default_factory=list)
    """The runs that said they use it."""
    manifest_md5: str = ""

    @property
    def name(self) -> str:
        """The name, without a version."""
        return self.collection[2]

    def node(self) -> Json:
        """Return the artifact as GraphQL shows it: every field that some query asks for."""
        return {
            "__typename": "Artifact",
            "id": self.id,
            "artifactSequence": self._collection_node(),
            "versionIndex": int(self.version[1:]) if self.version else None,
            "artifactType": {"name": self.type},
            "description": None,
            "metadata": json.dumps(self.metadata),
            "ttlDurationSeconds": -1,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": self.state,
            "size": sum(size_bytes for size_bytes, _ in self.manifest.values()),
            "digest": self.digest,
            "commitHash": self.digest,
            "fileCount": len(self.manifest),
            "createdAt": _LONG_AGO,
            "updatedAt": _LONG_AGO,
            "aliases": self._alias_nodes(),
        }

    def membership(self) -> Json:
        """Return its place among the artifacts of its name, as GraphQL shows it."""
        node = self.node()
        return {
            "__typename": "ArtifactCollectionMembership",
            "id": f"{self.id}-membership",
            "versionIndex": node["versionIndex"],
            "createdAt": node["createdAt"],
            "aliases": node["aliases"],
            "artifactCollection": node["artifactSequence"],
            "artifact": node,
        }

    def _alias_nodes(self) -> list[Json]:
        kind, collection = "ArtifactAlias", self._collection_node()
        return [
            {"__typename": kind, "id": alias, "alias": alias, "artifactCollection": collection}
            for alias in self.aliases
        ]

    def _collection_node(self) -> Json:
        entity, project, name = self.collection
        project_node = {"id": project, "internalId": project, "name": project}
        owned = {**project_node, "entity": {"name": entity}}
        return {"__typename": "ArtifactSequence", "name": name, "project": owned}


class ArtifactStore:
    """All artifacts and their files.

    Threads: the server calls it under its lock; no method blocks.
    """

    def __init__(self) -> None:
        self.url = ""
        """Where the server is, for the URLs of files."""
        self.artifacts: list[ServerArtifact] = []
        self.operations: dict[str, Callable[[Json], Json]] = {
            # writing
            "CreateArtifact": self._create,
            "CreateArtifactManifest": self._create_manifest,
            "CreateArtifactFiles": self._create_files,
            "CommitArtifact": self._commit,
            "DeleteArtifact": self._delete,
            "UseArtifact": self._use,
            # reading
            "ArtifactByID": lambda variables: {"artifact": self._by_id(variables["id"]).node()},
            "ArtifactType": self._type_by_name,
            "ArtifactMembershipByName": self._membership_by_name,
            "FetchArtifactManifest": self._manifest_url,
            "GetArtifactMembershipFileUrls": self._file_urls,
            "RunOutputArtifacts": self._made_by_run,
            "RunInputArtifacts": self._used_by_run,
        }
        self._uploads: dict[str, Upload] = {}  # by MD5: what was sent once is not sent again

    def put(self, artifact_id: str, md5: str, upload: Upload) -> tuple[int, Json]:
        """Store what was sent to an upload URL; refuse, as S3 does, what is not as promised."""
        if md5 != upload.promised_md5:
            return 403, {"error": "SignatureDoesNotMatch"}
        for artifact in self.artifacts:
            if artifact.id == artifact_id:
                artifact.uploaded_bytes += upload.size_bytes
        if md5 != upload.md5:
            return 400, {"error": "BadDigest"}
        self._uploads[md5] = upload
        return 200, {}

    def get(self, md5: str) -> tuple[int, Json | bytes]:
        """Return the content of a file."""
        upload = self._uploads.get(md5)
        if upload is None or upload.content is None:
            return 404, {"error": "NoSuchKey"}
        return 200, upload.content

    def _by_id(self, artifact_id: str) -> ServerArtifact:
        for artifact in self.artifacts:
            if artifact.id == artifact_id:
                return artifact
        raise RefusedError(f"no artifact has the id {artifact_id}")

    def _versions(self, collection: tuple[str, str, str]) -> list[ServerArtifact]:
        """Return the versions that go by one name, oldest first."""
        return [a for a in self.artifacts if a.collection == collection and a.version]

    def _called(self, collection: tuple[str, str, str], alias: str) -> ServerArtifact | None:
        for artifact in self._versions(collection):
            if artifact.state == "COMMITTED" and alias in (artifact.version, *artifact.aliases):
                return artifact
        return None

    def _create(self, variables: Json) -> Json:
        """Make an artifact, unless a version has its content or this is the request sent again."""
        wanted = variables["input"]
        aliases = [item["alias"] for item in wanted.get("aliases") or []]
        new = _new_artifact(wanted, aliases, number=len(self.artifacts) + 1)
        versions = self._versions(new.collection)
        latest = {"id": versions[-1].id} if versions else None
        same_content = [v for v in versions if v.digest == new.digest and v.state == "COMMITTED"]
        same_request = [other for other in self.artifacts if other.client_id == new.client_id]
        artifact = [*same_content, *same_request, new][0]
        if artifact is new:
            self.artifacts = [*self.artifacts, new]
        if artifact.state == "COMMITTED":
            self._give_aliases(artifact, aliases)
        node = {"id": artifact.id, "state": artifact.state}
        sequence = {"artifactSequence": {"latestArtifact": latest}}
        return {"createArtifact": {"artifact": {**node, **sequence}}}

    def _create_manifest(self, variables: Json) -> Json:
        artifact, md5 = self._by_id(variables["artifactID"]), variables["digest"]
        artifact.manifest_md5 = md5
        file = {"id": f"{artifact.id}-manifest", **self._upload_to(artifact, md5)}
        manifest = {"id": f"{artifact.id}-manifest", "file": file}
        return {"createArtifactManifest": {"artifactManifest": manifest}}

    def _create_files(self, variables: Json) -> Json:
        nodes = []
        for item in variables["input"]["artifactFiles"]:
            artifact, md5 = self._by_id(item["artifactID"]), item["md5"]
            node = {"artifact": {"id": artifact.id}, "storagePath": item["name"]}
            node |= {"uploadMultipartUrls": None, **self._upload_to(artifact, md5)}
            if md5 in self._uploads:  # it need not be sent
                node["uploadUrl"] = None
            nodes.append(node)
        return {"createArtifactFiles": {"files": _connection(nodes)}}

    def _commit(self, variables: Json) -> Json:
        """Make the artifact the newest version, if everything that it consists of has come."""
        artifact = self._by_id(variables["artifactID"])
        uploaded = self._uploads.get(artifact.manifest_md5)
        if uploaded is None or uploaded.content is None:
            raise RefusedError("the manifest was not uploaded, or is too large for this server")
        contents = json.loads(uploaded.content)["contents"]
        if missing := [p for p, entry in contents.items() if entry["digest"] not in self._uploads]:
            raise RefusedError(f"these files were not uploaded: {missing}")
        files = {path: self._uploads[entry["digest"]] for path, entry in contents.items()}
        artifact.files = {path: file.content for path, file in files.items()}
        artifact.manifest = {path: (file.size_bytes, file.md5) for path, file in files.items()}
        if artifact.state == "PENDING":
            artifact.version = f"v{len(self._versions(artifact.collection))}"
            self._give_aliases(artifact, [*artifact.wanted_aliases, "latest"])
            artifact.state = "COMMITTED"
        committed = {"id": artifact.id, "digest": artifact.digest}
        return {"commitArtifact": {"artifact": committed}}

    def _delete(self, variables: Json) -> Json:
        """Take a version out, with its aliases; its number is not given again."""
        artifact = self._by_id(variables["input"]["artifactID"])
        if artifact.aliases and not variables["input"].get("deleteAliases"):
            raise RefusedError(f"{artifact.version} has aliases: {artifact.aliases}")
        artifact.aliases = []
        artifact.state = "DELETED"
        return {"result": {"artifact": {"id": artifact.id}}}

    def _give_aliases(self, artifact: ServerArtifact, aliases: list[str]) -> None:
        """Give aliases to one version and take them from the others of its name."""
        for other in self._versions(artifact.collection):
            other.aliases = [alias for alias in other.aliases if alias not in aliases]
        artifact.aliases = [*artifact.aliases, *dict.fromkeys(aliases)]

    def _use(self, variables: Json) -> Json:
        wanted = variables.get("input") or variables
        artifact = self._by_id(wanted["artifactID"])
        artifact.used_by = [*artifact.used_by, wanted["runName"]]
        return {"useArtifact": {"artifact": artifact.node()}}

    def _by_name(self, variables: Json) -> ServerArtifact | None:
        name, _, alias = variables["name"].partition(":")
        return self._called((variables["entity"], variables["project"], name), alias)

    def _type_by_name(self, variables: Json) -> Json:
        found = self._by_name(variables)
        return {"project": {"artifact": found.node() if found else None}}

    def _membership_by_name(self, variables: Json) -> Json:
        found = self._by_name(variables)
        membership = found.membership() if found else None
        return {"project": {"artifactCollectionMembership": membership}}

    def _manifest_url(self, variables: Json) -> Json:
        artifact = self._by_id(variables["id"])
        file = {"directUrl": self._file_url(artifact, artifact.manifest_md5)}
        return {"artifact": {"currentManifest": {"file": file}}}

    def _file_urls(self, variables: Json) -> Json:
        collection = (variables["entity"], variables["project"], variables["collection"])
        artifact = self._called(collection, variables["alias"])
        if artifact is None:
            return {"project": {"artifactCollection": None}}
        nodes = [
            {"__typename": "File", "name": path, "directUrl": self._file_url(artifact, md5)}
            for path, (_, md5) in artifact.manifest.items()
        ]
        membership = {"artifactMembership": {"files": _connection(nodes)}}
        collection_node = {"__typename": "ArtifactSequence", **membership}
        return {"project": {"artifactCollection": collection_node}}

    def _made_by_run(self, variables: Json) -> Json:
        return self._of_run(variables, lambda artifact: artifact.run_id == variables["run"])

    def _used_by_run(self, variables: Json) -> Json:
        return self._of_run(variables, lambda artifact: variables["run"] in artifact.used_by)

    def _of_run(self, variables: Json, belongs: Callable[[ServerArtifact], bool]) -> Json:
        project = (variables["entity"], variables["project"])
        nodes = [a.node() for a in self.artifacts if a.collection[:2] == project and belongs(a)]
        return {"project": {"run": {"artifacts": _connection(nodes)}}}

    def _upload_to(self, artifact: ServerArtifact, md5: str) -> Json:
        url = self._file_url(artifact, md5)
        return {"uploadUrl": url, "uploadHeaders": [f"Content-MD5:{md5}"]}

    def _file_url(self, artifact: ServerArtifact, md5: str) -> str:
        return f"{self.url}/artifacts/{quote(artifact.id)}/{quote(md5, safe='')}"


def _new_artifact(wanted: Json, aliases: list[str], number: int) -> ServerArtifact:
    names = (wanted["entityName"], wanted["projectName"], wanted["artifactCollectionName"])
    return ServerArtifact(
        id=base64.b64encode(f"Artifact:{number}".encode()).decode(),
        client_id=wanted["clientID"],
        collection=names,
        type=wanted["artifactTypeName"],
        run_id=wanted.get("runName"),
        digest=wanted["digest"],
        metadata=json.loads(wanted.get("metadata") or "{}"),
        wanted_aliases=aliases,
    )


def _connection(nodes: list[Json]) -> Json:
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    edges = [{"node": node} for node in nodes]
    return {"totalCount": len(nodes), "pageInfo": page, "edges": edges}

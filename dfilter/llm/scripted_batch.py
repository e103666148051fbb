"""The scripted server's files and batches."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfilter.llm.scripted import ScriptedServer

FILE = re.compile(r'name="file"[^\r]*(?:\r\n[^\r]+)*\r\n\r\n')


class Batches:
    """Files and batches by id. A batch is worked through when it is first looked at ``polls`` times.

    Attributes:
        polls: how often a batch is looked at before it is over.
        expire: share of a batch's rows that expire unanswered.
        lose: row ids that end in no file at all.
    """

    def __init__(self, server: ScriptedServer, most: int) -> None:
        self.server, self.most = server, most
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.polls = 2
        self.expire = 0.0
        self.lose: set[str] = set()

    def handle(  # noqa: PLR0911 - one return an address
        self, method: str, path: str, head: bytes, body: bytes, authorization: str
    ) -> tuple[int, bytes]:
        """Answer a request about files or batches: (status, body)."""
        parts = path.split("?", maxsplit=1)[0].split("/v1/", 1)[-1].strip("/").split("/")
        if method == "POST" and parts == ["files"]:
            return self._keep_file(head, body)
        if method == "GET" and parts[0] == "files" and parts[-1] == "content" and parts[1] in self.files:
            return 200, self.files[parts[1]]
        if method == "GET" and parts == ["batches"]:
            shown = [batch["shown"] for batch in reversed(self.batches.values())]
            return 200, json.dumps({"object": "list", "data": shown, "has_more": False}).encode()
        if method == "POST" and parts == ["batches"]:
            return self._create(json.loads(body))
        if method == "POST" and parts[0] == "batches" and parts[-1] == "cancel" and parts[1] in self.batches:
            return 200, json.dumps(self.batches[parts[1]]["shown"]).encode()
        if method == "GET" and parts[0] == "batches" and parts[-1] in self.batches:
            return self._look(parts[-1], authorization)
        return 404, b'{"error": {"message": "there is nothing at this address"}}'

    def _keep_file(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        boundary = re.search(rb"boundary=([^\r;]+)", head)
        text = body.decode("utf-8", "replace")
        found = FILE.search(text)
        if boundary is None or found is None:
            return 400, b'{"error": {"message": "no file in the form"}}'
        content = text[found.end() :].split(f"\r\n--{boundary.group(1).decode()}")[0]
        name = f"file-{len(self.files) + 1}"
        self.files[name] = content.encode()
        shown = {"id": name, "object": "file", "bytes": len(content), "created_at": int(time.time())}
        return 200, json.dumps(
            {**shown, "filename": "batch.jsonl", "purpose": "batch", "status": "processed"}
        ).encode()

    def _create(self, asked: dict[str, Any]) -> tuple[int, bytes]:
        lines = self.files.get(asked["input_file_id"], b"").splitlines()
        name = f"batch_{len(self.batches) + 1}"
        too_many = len(lines) > self.most
        shown: dict[str, Any] = {
            "id": name,
            "object": "batch",
            "endpoint": asked["endpoint"],
            "input_file_id": asked["input_file_id"],
            "completion_window": asked["completion_window"],
            "metadata": asked.get("metadata"),
            "status": "failed" if too_many else "in_progress",
            "created_at": int(time.time()),
        }
        if too_many:
            shown["errors"] = {"data": [{"message": f"more than {self.most} requests"}]}
        self.batches[name] = {"shown": shown, "looks": 0}
        return 200, json.dumps(shown).encode()

    def _look(self, name: str, authorization: str) -> tuple[int, bytes]:
        batch = self.batches[name]
        batch["looks"] += 1
        if batch["looks"] >= self.polls and batch["shown"]["status"] == "in_progress":
            self._work(batch["shown"], authorization)
        return 200, json.dumps(batch["shown"]).encode()

    def _work(self, shown: dict[str, Any], authorization: str) -> None:
        out: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        rows = [json.loads(line) for line in self.files[shown["input_file_id"]].splitlines()]
        answered = len(rows) - int(len(rows) * self.expire)
        for number, row in enumerate(rows):
            if row["custom_id"] in self.lose:
                continue
            if number >= answered:
                error = {"code": "batch_expired", "message": "not finished in time"}
                errors.append({"custom_id": row["custom_id"], "response": None, "error": error})
                continue
            say, payload = self.server.decide(row["body"], authorization, batch=True)
            try:
                body = json.loads(payload)
            except (ValueError, RecursionError):
                body = payload[:200].decode("utf-8", "replace")
            line = {
                "custom_id": row["custom_id"],
                "response": {"status_code": say.status, "body": body},
                "error": None,
            }
            (out if say.status == 200 else errors).append(line)
        out.reverse()  # results come in no order that one may rely on
        shown["status"] = "expired" if self.expire else "completed"
        shown["output_file_id"] = self._put(out)
        shown["error_file_id"] = self._put(errors)

    def _put(self, lines: list[dict[str, Any]]) -> str | None:
        if not lines:
            return None
        name = f"file-{len(self.files) + 1}"
        self.files[name] = "\n".join(json.dumps(line) for line in lines).encode()
        return name

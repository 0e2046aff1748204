"""The files and batches of the loopback endpoint, by the Batch API's documented shapes."""

from __future__ import annotations

import json
import re
from typing import Any

from endpoint_model import Model, Refused


class Batches:
    """Uploaded files and the batches made of them.

    Attributes:
        polls: How often a batch says ``in_progress`` before it ends.
        end: How it ends: ``completed``, ``failed`` (refused before work), ``expired`` or ``cancelled`` (half its lines
            have an answer).
        failing: Every how many lines one fails on its own; 0 for none.
    """

    def __init__(self, brain: Model) -> None:
        self.polls = 1
        self.end = "completed"
        self.failing = 0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self._brain = brain
        self._left: dict[str, int] = {}

    def answer(self, method: str, path: str, body: Any) -> Any:
        parts = path.removeprefix("/v1/").split("/")
        if parts[0] == "files":
            return self._file(method, parts, body)
        if method == "POST" and len(parts) == 1:
            return self._create(body)
        if len(parts) == 1:
            return {"object": "list", "data": list(self.batches.values()), "has_more": False}
        batch = self.batches.get(parts[1])
        if batch is None:
            raise Refused(404, f"No batch found with id '{parts[1]}'.")
        if batch["status"] in ("validating", "in_progress"):
            self._step(batch)
        return batch

    def _file(self, method: str, parts: list[str], body: Any) -> Any:
        if method == "POST":
            found = re.search(rb'name="file"[^\r]*\r\n(?:[^\r]+\r\n)*\r\n(.*?)\r\n--', body, re.DOTALL)
            if found is None:
                raise Refused(400, "no file")
            return self._keep(found[1])
        if parts[1] not in self.files:
            raise Refused(404, "No such File object")
        if parts[-1] == "content":
            return self.files[parts[1]]
        return {"id": parts[1], "object": "file", "bytes": len(self.files[parts[1]]), "purpose": "batch"}

    def _keep(self, data: bytes) -> dict[str, Any]:
        name = f"file-{len(self.files)}"
        self.files[name] = data
        return {
            "id": name,
            "object": "file",
            "bytes": len(data),
            "created_at": 0,
            "filename": "batch.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        name = f"batch_{len(self.batches)}"
        self._left[name] = self.polls
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"],
            "completion_window": body["completion_window"],
            "created_at": 0,
            "status": "validating",
            "metadata": body.get("metadata"),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        return self.batches[name]

    def _step(self, batch: dict[str, Any]) -> None:
        if self._left[batch["id"]] > 0:
            self._left[batch["id"]] -= 1
            batch["status"] = "in_progress"
            return
        batch["status"] = self.end
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        if self.end == "failed":
            batch["errors"] = {"object": "list", "data": [{"code": "invalid_json_line", "line": 1, "message": "bad"}]}
            return
        done = lines if self.end == "completed" else lines[: len(lines) // 2]
        good, bad = [], []
        for at, line in enumerate(done):
            failed = self.failing and at % self.failing == 0
            body = {"error": {"message": "fault 500"}} if failed else self._brain.chat(line["body"])
            row = {"id": f"r{at}", "custom_id": line["custom_id"], "error": None}
            row["response"] = {"status_code": 500 if failed else 200, "request_id": f"q{at}", "body": body}
            (bad if failed else good).append(row)
        why = {"code": f"batch_{self.end}", "message": "This request was not run in time."}
        bad += [
            {"id": "x", "custom_id": line["custom_id"], "response": None, "error": why} for line in lines[len(done) :]
        ]
        # The real service promises no order.
        for name, rows in (("output_file_id", good[::-1]), ("error_file_id", bad)):
            if rows:
                batch[name] = self._keep("\n".join(map(json.dumps, rows)).encode())["id"]
        batch["request_counts"] = {"total": len(lines), "completed": len(good), "failed": len(bad)}

"""What the server's own OpenAPI schema allows, and what it forbids, thrown at it by schemathesis: never a 5xx.

``make test-serve`` installs schemathesis; ``make test`` skips this where it is absent.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("schemathesis", reason="make test-serve installs schemathesis")

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EXAMPLES = 100


def test_nothing_the_schema_makes_is_a_5xx(whole_site, tmp_path):
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{whole_site.url}/openapi.json", "--checks", CHECKS]
    options = ["--max-examples", str(EXAMPLES), "--mode", "all", "--seed", "1", "--generation-database", "none"]
    done = subprocess.run([*command, *options, "--no-color"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    served = whole_site.get("/metrics").text
    for path in ("/v1/embeddings", "/search", "/thumbs"):  # both what is right and what is wrong came
        for status in ("200", "400"):
            assert f'path="{path}",status="{status}"' in served, (path, status)
    assert 'status="5' not in served

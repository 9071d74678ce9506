"""A FHIR R4 server in this process, on loopback, that can be told to misbehave.

    with FhirServer([PATIENT, *observations]) as server:
        ...  # server.url is its base address
        server.received  # the Bundles that were posted
        server.of("DiagnosticReport")  # what it holds, of one kind

It knows Patient?identifier=, Observation?patient=&code=&date=, pages with `next` links, and POST of
a transaction Bundle with conditional updates and references between its entries.
"""

import json
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

__all__ = ["Fault", "FhirServer", "observation", "patient"]

Resource = dict[str, Any]
Fault = Literal[
    "", "slow", "drip", "500", "422", "401", "html", "huge", "endless", "elsewhere", "mixed",
    "redirect", "cut", "outcome",
]  # fmt: skip


def patient(own: str = "p1", mrn: str = "P-1", **more: Any) -> Resource:
    """A woman, born on the first of June 1960."""
    return {"resourceType": "Patient", "id": own, "gender": "female", "birthDate": "1960-06-01",
            "identifier": [{"system": "urn:oid:1.2.3", "value": mrn}], **more}  # fmt: skip


def observation(
    code: str, value: float, unit: str, when: str, *, of: str = "p1", **more: Any
) -> Resource:
    """A final one."""
    quantity = {"value": value, "code": unit, "system": "http://unitsofmeasure.org"}
    return {
        "resourceType": "Observation", "status": "final", "subject": {"reference": f"Patient/{of}"},
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "effectiveDateTime": when, "valueQuantity": quantity, **more,
    }  # fmt: skip


class FhirServer(ThreadingHTTPServer):
    """Serves from `with` on until its end."""

    daemon_threads = True

    def __init__(self, resources: list[Resource], *, token: str = "", page: int = 50) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.resources = [dict(one) for one in resources]
        self.token, self.page = token, page
        self.fault: Fault = ""
        self.faults = 10**9  # how many requests it is wrong in, from now on
        self.asked: list[str] = []
        self.tokens: list[str] = []
        self.received: list[Resource] = []
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/fhir"

    def __enter__(self) -> "FhirServer":
        self.before = os.environ.get("no_proxy")
        os.environ["no_proxy"] = ",".join(filter(None, (self.before, "127.0.0.1")))
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.shutdown()
        self.server_close()
        if self.before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = self.before

    def of(self, kind: str) -> list[Resource]:
        """What it holds of one kind."""
        return [one for one in self.resources if one["resourceType"] == kind]

    def search(self, kind: str, query: list[tuple[str, str]]) -> list[Resource]:
        """The resources of a kind for which every parameter holds."""
        asked = [(name, value) for name, value in query if not name.startswith(("_count", "page"))]
        return [one for one in self.of(kind) if all(_holds(one, *pair) for pair in asked)]

    def transact(self, bundle: Resource) -> Resource:
        """Takes all of a transaction, and says of each entry what became of it."""
        names: dict[str, str] = {}
        outputs, answers = [], []
        for entry in bundle["entry"]:
            kind = entry["resource"]["resourceType"]
            parts = urlsplit(entry["request"]["url"])
            there = self.search(kind, parse_qsl(parts.query)) if parts.query else []
            assert len(there) < 2, "a conditional update that is true of several"
            own = there[0]["id"] if there else f"s{len(self.resources) + len(outputs) + 1}"
            version = int(there[0]["meta"]["versionId"]) + 1 if there else 1
            names[entry["fullUrl"]] = f"{kind}/{own}"
            outputs.append((there, {**entry["resource"], "id": own}, version))
            message = {"status": "200 OK" if there else "201 Created",
                    "location": f"{kind}/{own}/_history/{version}"}  # fmt: skip
            answers.append({"response": message})
        for there, one, version in outputs:
            text = json.dumps(one)
            for full, name in names.items():
                text = text.replace(f'"{full}"', f'"{name}"')
            stored = json.loads(text)
            stored["meta"] = {**stored.get("meta", {}), "versionId": str(version)}
            for old in there:
                self.resources.remove(old)
            self.resources.append(stored)
        return {"resourceType": "Bundle", "type": "transaction-response", "entry": answers}


def _values(text: str) -> list[str]:
    """The alternatives of a parameter, of which a backslash keeps a comma together."""
    return [re.sub(r"\\(.)", r"\1", one) for one in re.findall(r"(?:\\.|[^,\\])+", text)]


def _token_holds(pairs: list[tuple[Any, Any]], text: str) -> bool:
    """Whether one of (system, value) is what a token parameter asks for."""
    return any(text in (value, f"{system}|{value}") for system, value in pairs)


def _codes(one: Resource) -> list[tuple[Any, Any]]:
    """Of an Observation and of its components."""
    parts = [one, *one.get("component", [])]
    return [(c.get("system"), c.get("code")) for p in parts for c in p["code"].get("coding", [])]


def _holds(one: Resource, name: str, text: str) -> bool:
    if name == "identifier":
        pairs = [(i.get("system"), i.get("value")) for i in one.get("identifier", [])]
        return any(_token_holds(pairs, value) for value in _values(text))
    if name == "patient":
        subject = one.get("subject", {}).get("reference", "")
        return any(subject.endswith(f"Patient/{value}") for value in _values(text))
    if name == "code":
        return any(_token_holds(_codes(one), value) for value in _values(text))
    if name == "date":
        period = one.get("effectivePeriod", {})
        when = one.get("effectiveDateTime") or period.get("end") or period.get("start") or ""
        return when[:10] >= text[2:] if text.startswith("ge") else when[:10] <= text[2:]
    assert name == "_id", f"the server knows no parameter {name}"
    return one.get("id") in _values(text)


class _Answers(BaseHTTPRequestHandler):
    server: FhirServer

    def do_GET(self) -> None:
        """One page of a search."""
        if self._is_wrong():
            return
        parts = urlsplit(self.path)
        kind, query = parts.path.rpartition("/")[2], parse_qsl(parts.query)
        number = int(dict(query).get("page", 0))
        with self.server.lock:
            result = self.server.search(kind, query)
            if self.server.fault == "mixed" and kind == "Observation":
                result = self.server.of(kind)
        size = self.server.page
        rest = "&".join(p for p in parts.query.split("&") if not p.startswith("page="))
        onward = f"{self.server.url}/{kind}?{rest}&page={number + 1}"
        more = (number + 1) * size < len(result) or self.server.fault in ("endless", "elsewhere")
        if self.server.fault == "elsewhere":
            onward = f"http://127.0.0.1:9/fhir/{kind}?page=1"
        link = [{"relation": "self", "url": self.path}]
        link += [{"relation": "next", "url": onward}] if more else []
        some = result[number * size : (number + 1) * size]
        entries = [({"fullUrl": f"{self.server.url}/{kind}/{one['id']}"} if "id" in one else {})
                   | {"resource": one}
                   for one in some]  # fmt: skip
        self._say(200, {"resourceType": "Bundle", "type": "searchset", "link": link,
                        "entry": entries})  # fmt: skip

    def do_POST(self) -> None:
        """A transaction."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._is_wrong():
            return
        if urlsplit(self.path).path.rstrip("/") != "/fhir":
            self._say(404, {"resourceType": "OperationOutcome"})
            return
        bundle = json.loads(body)
        with self.server.lock:
            self.server.received.append(bundle)
            self._say(200, self.server.transact(bundle))

    def _say(self, status: int, content: Any) -> None:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/fhir+json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _is_wrong(self) -> bool:
        """Notes the request, and answers it where the answer is not the right one."""
        server = self.server
        with server.lock:
            server.asked.append(self.path)
            server.tokens.append(self.headers.get("Authorization", ""))
            server.faults -= 1
            fault = server.fault if server.faults >= 0 else ""
        if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
            fault = "401"
        if fault in ("", "endless", "elsewhere", "mixed"):
            return False
        if fault == "slow":
            server.ending.wait(30)
        elif fault == "drip":
            self._drip()
        elif fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"resourceType": "Bundle"')
        elif fault == "redirect":
            self.send_response(307)
            self.send_header("Location", f"{server.url.replace('127.0.0.1', 'localhost')}/Patient")
            self.end_headers()
        elif fault == "html":
            self._say(200, b"<html>")
        elif fault == "huge":
            self._flood()
        elif fault == "outcome":
            self._say(200, {"resourceType": "Bundle", "type": "transaction-response",
                            "entry": [{"response": {"status": "409 Conflict"}}]})  # fmt: skip
        else:
            self._say(int(fault), {"resourceType": "OperationOutcome", "issue": [{"code": "P-1"}]})
        return True

    def _drip(self) -> None:
        """A header that comes byte by byte and never ends."""
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
        try:
            while not self.server.ending.is_set():
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            pass

    def _flood(self) -> None:
        """A Bundle that never ends, as fast as it is read."""
        self.wfile.write(b'HTTP/1.0 200 OK\r\n\r\n{"resourceType": "Bundle", "x": "')
        try:
            while not self.server.ending.is_set():
                self.wfile.write(b"x" * 2**20)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        """Says nothing."""

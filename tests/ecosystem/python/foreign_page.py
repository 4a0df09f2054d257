"""Sends requests to a server from a page of another origin, in every way that browsers allow without
reading the answer, in a headless Chromium; and from the server's own page.

Usage: foreign_page.py REST_URL ADMIN_URL
"""

import http.server
import json
import sys
import tempfile
import threading
import time
import urllib.request

import chromium

PATIENCE_S = 60
PAGE = b"<!doctype html><title>another page</title><iframe name=hidden></iframe>"
# Each sends one request, which the server has to refuse.
ATTACKS = {
    "a form with an empty body": """
        const form = document.createElement("form");
        form.method = "POST"; form.target = "hidden";
        form.action = rest + "/home/h/sessions/setMaxSession?max_nb_of_session=0";
        document.body.append(form); form.submit();""",
    "a form that gives a device away": """
        const form = document.createElement("form");
        form.method = "POST"; form.target = "hidden";
        form.action = rest + "/device/d/create?account_id=evil";
        document.body.append(form); form.submit();""",
    "fetch without CORS, of a blob without a type": """
        const body = new Blob(['{"user_id":"victim"}']);
        fetch(rest + "/session", {method: "POST", mode: "no-cors", body}).catch(() => {});""",
    "a beacon": """
        const body = new TextEncoder().encode('{"session_key":"k","fleet_list_request":2}');
        navigator.sendBeacon(rest + "/v1/pre-order/sessions", body.buffer);""",
    "an event source": """
        new EventSource(rest + "/v1/connect?user_id=victim&pod_id=p").onerror =
            event => event.target.close();""",
    "an image whose address has an effect": """
        new Image().src = rest + "/v1/reschedule/sessions/once?" + Math.random();""",
    "an image whose address has an effect, by the name localhost": """
        new Image().src = rest.replace("127.0.0.1", "localhost") + "/v1/reschedule/sessions/once";""",
    "a request that needs a preflight": """
        fetch(rest + "/session?user_id=victim", {method: "DELETE"}).catch(() => {});""",
}
# The browser itself reports when these were answered.
ADMIN_ATTACKS = {
    "a swap back": """
        fetch(admin + "/component/rollback", {method: "POST", mode: "no-cors"}).catch(() => {});""",
    "an image": """
        new Image().src = admin + "/component?" + Math.random();""",
}


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_):
        pass


def ask(url: str, method: str = "GET", body=None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def refused(admin: str) -> int:
    """The number of requests that the REST port has refused."""
    with urllib.request.urlopen(f"{admin}/metrics", timeout=PATIENCE_S) as metrics:
        lines = metrics.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("session_manager_requests_total{")]
    return sum(int(line.split()[-1]) for line in counts if 'code="403"' in line)


def until(condition, what: str) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < PATIENCE_S, f"waited too long for {what}"
        time.sleep(0.02)


def check(browser, rest: str, admin: str, page: str) -> None:
    generation = ask(f"{admin}/component")["generation"]
    ask(f"{rest}/v1/pre-order/sessions/k", "PUT", {"fleet_list_request": 1})
    once = {"order_id": "o", "delete_after_get": True}
    ask(f"{rest}/v1/reschedule/sessions/once", "PUT", once)
    ask(f"{rest}/device/d/create", "POST", {"account_id": "mine"})
    browser.get(page)
    for name, attack in ATTACKS.items():
        before = refused(admin)
        browser.execute_script("const [rest] = arguments;" + attack, rest)
        until(lambda: refused(admin) > before, name)
    for name, attack in ADMIN_ATTACKS.items():
        count = "return performance.getEntriesByType('resource').length"
        before = browser.execute_script(count)
        browser.execute_script("const [admin] = arguments;" + attack, admin)
        until(lambda: browser.execute_script(count) > before, name)
    # No request has changed anything.
    assert ask(f"{rest}/homes/h")["nbActiveSessions"] == 2
    assert ask(f"{rest}/devices/d")["accountId"] == "mine"
    assert ask(f"{rest}/session?user_id=victim")["sessions"] == []
    assert ask(f"{rest}/v1/pre-order/sessions/k")["fleet_list_request"] == 1
    assert ask(f"{rest}/v1/users/victim/presence")["online"] is False
    assert ask(f"{rest}/v1/reschedule/sessions/once")["order_id"] == "o"
    assert ask(f"{admin}/component")["generation"] == generation
    # A foreign host name that resolves to this server is refused, although its page has the same origin.
    for base in (rest, admin):
        browser.get(base.replace("127.0.0.1", "rebound.test") + "/openapi.json")
        assert "MISDIRECTED" in browser.page_source, browser.page_source
    # The own page of the server still works.
    browser.get(f"{rest}/docs")
    status = browser.execute_async_script(
        """const [done] = arguments;
        fetch("/session", {method: "POST", headers: {"content-type": "application/json"},
            body: '{"user_id":"u"}'}).then(answer => done(answer.status));"""
    )
    assert status == 200, status
    # A link to it works too.
    browser.get(page)
    browser.execute_script("location.href = arguments[0] + '/docs'", rest)
    until(lambda: "Session Manager" in browser.title, "the page behind the link")


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()
names = "--host-resolver-rules=MAP evil.test 127.0.0.1,MAP rebound.test 127.0.0.1"
with tempfile.TemporaryDirectory() as profile:
    browser = chromium.start(profile, names)
    browser.set_script_timeout(PATIENCE_S * 2)
    try:
        check(browser, sys.argv[1], sys.argv[2], f"http://evil.test:{server.server_port}/")
    finally:
        browser.quit()
print("done")

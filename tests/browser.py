"""A headless Chromium driven over its debugging pipe: keys and pointer are real, and every request is seen.

Tests take it as the fixture ``browser``.
"""

import base64
import json
import os
import select
import shutil
import signal
import time

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), None)
PATIENCE = 240  # seconds; machines that test are busy
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "Space": (32, " "), "ArrowRight": (39, ""), "ArrowDown": (40, "")}
KEYS |= {"Escape": (27, "")}
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Browser:
    """One page of one browser; ``complaints`` and ``requests`` are of what was opened last."""

    def __init__(self, profile):
        ours, theirs = os.pipe(), os.pipe()  # what it reads, what it writes
        moves = [(os.POSIX_SPAWN_DUP2, ours[0], 3), (os.POSIX_SPAWN_DUP2, theirs[1], 4)]
        moves.append((os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}"]
        self.process = os.posix_spawn(CHROMIUM, command, os.environ, file_actions=moves, setpgroup=0)
        os.close(ours[0])
        os.close(theirs[1])
        self.writer, self.reader, self.buffer, self.number = ours[1], theirs[0], b"", 0
        self.session, self.loaded, self.complaints, self.requests = None, False, [], []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def close(self):
        os.killpg(self.process, signal.SIGKILL)  # its own group, made above
        os.waitpid(self.process, 0)
        os.close(self.writer)
        os.close(self.reader)

    def ask(self, method, **parameters):
        """Send one command and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.writer, data) :]
        while (answer := self.receive()).get("id") != self.number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def receive(self):
        """Return the next message, noting what events tell."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            assert select.select([self.reader], [], [], max(0, end - time.monotonic()))[0], "the browser is silent"
            part = os.read(self.reader, 1 << 20)
            assert part, "the browser is gone"
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(line)
        event = message.get("method")
        if event in {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}:
            if message["params"].get("entry", {}).get("level") != "verbose":  # advice
                self.complaints.append(message["params"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        elif event == "Page.loadEventFired":
            self.loaded = True
        return message

    def open(self, page, *, width=1280, height=900, scheme="light", scripts=True):
        """Load a file or an address as a reader with this window and this setting sees it."""
        self.look(width=width, height=height, scheme=scheme)
        self.ask("Emulation.setScriptExecutionDisabled", value=not scripts)
        # By way of nowhere: an address that differs only behind the # from the last one would not be loaded.
        for address in ("about:blank", page if isinstance(page, str) else page.as_uri()):
            self.loaded, self.complaints, self.requests = False, [], []
            self.ask("Page.navigate", url=address)
            while not self.loaded:
                self.receive()

    def look(self, *, width, height=900, scheme="light", medium=""):
        mobile = width < 600
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.ask(
            "Emulation.setEmulatedMedia", media=medium, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def tell(self, expression):
        """Return the value of an expression on the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression):
        """Wait until an expression on the page is true."""
        end = time.monotonic() + PATIENCE
        while not self.tell(f"Boolean({expression})"):
            assert time.monotonic() < end, (expression, self.tell("document.body.innerText"))
            time.sleep(0.05)

    def press(self, key):
        """Press a key: a letter, or one of ``KEYS``."""
        code, text = KEYS.get(key) or (ord(key.upper()), key)
        names = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": code}
        self.ask("Input.dispatchKeyEvent", type="keyDown", text=text, **names)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **names)

    def type(self, text):
        self.ask("Input.insertText", text=text)

    def point(self, selector):
        """Move the pointer to the middle of an element, scrolling there."""
        middle = (
            "(() => { const e = document.querySelector("
            + json.dumps(selector)
            + "); e.scrollIntoView({block: 'center'});"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        x, y = self.tell(middle)
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def print(self, path):
        """Save the page as a PDF, A4."""
        got = self.ask("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=False)
        path.write_bytes(base64.b64decode(got["data"]))

    def picture(self, path):
        """Save what is seen."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

"""Downloads over a loopback server that misbehaves in the ways real ones do."""

import dataclasses
import errno
import hashlib
import ssl
import threading
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hdtalk import weights
from hdtalk.download import download
from hdtalk.errors import UsageError, WeightsError
from hdtalk.registry import OFFICIAL_FILES, OfficialFile

CONTENT = bytes(range(256)) * 3000  # 768 kB
OFFICIAL = OfficialFile(
    "net.pth", "parser", "bisenet", ("https://example.org/net.pth",), hashlib.sha256(CONTENT).hexdigest(), len(CONTENT),
    "a licence", "a test",
)  # fmt: skip


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `breaks` are the numbers of bytes after which the next connections are cut."""

    daemon_threads = True

    def __init__(self, content=CONTENT, ranges=True, breaks=(), pages=None, statuses=()):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.breaks, self.pages = content, ranges, list(breaks), pages or {}
        self.statuses, self.requests = list(statuses), []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # clients that turn away from what they are offered

    def address(self, path="/net.pth"):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        if server.statuses:
            return self.send_error(server.statuses.pop(0))
        for start, page in server.pages.items():
            if self.path.startswith(start):
                kind, value = page
                if kind == "redirect":
                    self.send_response(302)
                    self.send_header("Location", value)
                    return self.end_headers()
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(value)))
                self.end_headers()
                return self.wfile.write(value.encode())
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if server.ranges else 0
        if start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            return self.end_headers()
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(**options):
        servers.append(Server(**options))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def get(folder, *sources, official=OFFICIAL, **options):
    return download(official, folder, sources=sources, pause_s=0.01, attempts=3, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_whole_file_arrives_with_progress(tmp_path, serve):
    seen = []
    path = get(tmp_path / "store", serve().address(), progress=lambda *call: seen.append(call))
    assert path == tmp_path / "store/net.pth" and path.read_bytes() == CONTENT and names(path.parent) == ["net.pth"]
    assert seen[-1] == ("net.pth", len(CONTENT), len(CONTENT)) and [n for _, n, _ in seen] == sorted(
        n for _, n, _ in seen
    )


def test_broken_connection_is_resumed_where_it_broke(tmp_path, serve):
    server = serve(breaks=[len(CONTENT) // 2, 1000])
    assert get(tmp_path, server.address()).read_bytes() == CONTENT
    starts = [request[1] for request in server.requests]
    assert starts == [None, f"bytes={len(CONTENT) // 2}-", f"bytes={len(CONTENT) // 2 + 1000}-"]


def test_a_later_call_resumes_what_an_earlier_one_left(tmp_path, serve):
    server = serve(breaks=[5000, 0, 0, 0])
    with pytest.raises(WeightsError, match="the connection broke.*hdtalk weights add"):
        get(tmp_path, server.address())
    assert names(tmp_path) == ["net.pth.part"] and (tmp_path / "net.pth.part").read_bytes() == CONTENT[:5000]
    assert get(tmp_path, server.address()).read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=5000-"


def test_server_without_ranges_starts_over(tmp_path, serve):
    (tmp_path / "net.pth.part").write_bytes(b"x" * 100)
    assert get(tmp_path, serve(ranges=False).address()).read_bytes() == CONTENT


def test_wrong_hash_is_refused_and_leaves_nothing(tmp_path, serve):
    server = serve(content=CONTENT[::-1])
    with pytest.raises(WeightsError, match="sha256 is .* was expected") as caught:
        get(tmp_path, server.address())
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_stale_part_of_another_file_is_thrown_away_and_the_next_source_serves(tmp_path, serve):
    (tmp_path / "net.pth.part").write_bytes(b"x" * 100)
    path = get(tmp_path, serve().address("/a"), serve().address("/b"))
    assert path.read_bytes() == CONTENT and names(tmp_path) == ["net.pth"]


def test_complete_part_needs_only_its_verification(tmp_path, serve):
    (tmp_path / "net.pth.part").write_bytes(CONTENT)
    unsized = dataclasses.replace(OFFICIAL, size=None)
    assert get(tmp_path, serve().address(), official=unsized).read_bytes() == CONTENT


def test_hash_prefix_is_enough_where_only_that_is_published(tmp_path, serve):
    short = dataclasses.replace(OFFICIAL, sha256=OFFICIAL.sha256[:10], size=None)
    assert get(tmp_path, serve().address(), official=short).read_bytes() == CONTENT
    other = dataclasses.replace(short, sha256="0123456789", name="other.pth")
    with pytest.raises(WeightsError, match="sha256"):
        get(tmp_path, serve().address(), official=other)
    assert names(tmp_path) == ["net.pth"]


def test_wrong_size_is_refused_before_it_is_downloaded(tmp_path, serve):
    with pytest.raises(WeightsError, match=f"offers {len(CONTENT)} bytes"):
        get(tmp_path, serve().address(), official=dataclasses.replace(OFFICIAL, size=10))
    assert names(tmp_path) == []


def test_busy_server_is_asked_again_and_a_missing_file_is_not(tmp_path, serve):
    assert get(tmp_path, serve(statuses=[503]).address()).read_bytes() == CONTENT
    server = serve(statuses=[404] * 9)
    with pytest.raises(WeightsError, match="HTTP 404"):
        get(tmp_path / "other", server.address())
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "error",
    [
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
        ssl.SSLError(1, "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
    ],
)
def test_any_break_while_reading_is_taken_up(tmp_path, serve, monkeypatch, error):
    read1, failures, server = HTTPResponse.read1, [None, error], serve()

    def broken(answer, num_bytes):
        if failures and (failure := failures.pop(0)):
            raise failure
        return read1(answer, 1000)

    monkeypatch.setattr(HTTPResponse, "read1", broken)
    assert get(tmp_path, server.address()).read_bytes() == CONTENT
    assert [request[1] for request in server.requests] == [None, "bytes=1000-"]


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.ENOSPC])
def test_a_dead_network_ends_in_one_line_and_a_full_disk_is_not_asked_again(tmp_path, serve, monkeypatch, number):
    asked = []

    def broken(answer, num_bytes):
        asked.append(num_bytes)
        raise OSError(number, "broken")

    monkeypatch.setattr(HTTPResponse, "read1", broken)
    with pytest.raises(OSError if number == errno.ENOSPC else WeightsError, match="broken") as caught:
        get(tmp_path, serve().address("/a"), serve().address("/b"))
    assert len(asked) == (1 if number == errno.ENOSPC else 6) and "\n" not in str(caught.value)


def test_unreachable_server(tmp_path, serve):
    server = serve()
    server.shutdown()
    server.server_close()
    with pytest.raises(WeightsError, match="refused"):
        get(tmp_path, server.address())


@pytest.mark.parametrize("address", ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd"])
def test_only_https_or_this_machine(tmp_path, serve, address):
    with pytest.raises(WeightsError, match="not an https address"):
        get(tmp_path, address)
    with pytest.raises(WeightsError, match="not an https address|not allowed"):
        get(tmp_path, serve(pages={"/net": ("redirect", address)}).address())
    assert names(tmp_path) == []


def test_redirect_on_the_same_terms_is_followed(tmp_path, serve):
    target = serve().address("/elsewhere")
    assert get(tmp_path, serve(pages={"/net": ("redirect", target)}).address()).read_bytes() == CONTENT


FORM = """<html><body><form id="download-form" action="{action}" method="get">
<input type="submit" value="Download anyway"><input type="hidden" name="id" value="THE_ID">
<input type="hidden" name="uuid" value="a&amp;b"></form></body></html>"""


def test_drive_confirmation_is_followed(tmp_path, serve):
    server = serve(pages={"/download": ("page", FORM.format(action="/confirmed"))})
    path = download(OFFICIAL, tmp_path, sources=("gdrive:THE_ID",), drive=server.address("/download"))
    assert path.read_bytes() == CONTENT
    assert [request[0] for request in server.requests] == [
        "/download?id=THE_ID&export=download&confirm=t",
        "/confirmed?id=THE_ID&uuid=a%26b",
    ]


@pytest.mark.parametrize("page", ["<html>Sign in</html>", FORM.format(action="https://evil.example.org/x")])
def test_drive_page_without_a_way_on_says_how_to_do_it_by_hand(tmp_path, serve, page):
    server = serve(pages={"/download": ("page", page)})
    with pytest.raises(WeightsError, match=r"drive\.google\.com/file/d/THE_ID/view.*hdtalk weights add"):
        download(OFFICIAL, tmp_path, sources=("gdrive:THE_ID",), drive=server.address("/download"), pause_s=0)
    assert names(tmp_path) == []


def test_two_downloads_of_one_file_do_not_mix(tmp_path, serve):
    server, outcomes = serve(), []

    def second(*_):
        if not outcomes:
            try:
                get(tmp_path, server.address())
            except WeightsError as error:
                outcomes.append(str(error))

    assert get(tmp_path, server.address(), progress=second).read_bytes() == CONTENT
    assert "another hdtalk is fetching it" in outcomes[0]


def test_fetch_asks_for_the_licence_and_honours_offline(tmp_path, serve, monkeypatch):
    monkeypatch.setenv("HDTALK_HOME", str(tmp_path))
    address = serve().address()
    with pytest.raises(UsageError, match="a licence.*--accept-licence"):
        weights.fetch(OFFICIAL, sources=(address,))
    with pytest.raises(WeightsError, match="--offline"):
        weights.fetch(OFFICIAL, accept_licence=True, offline=True, sources=(address,))
    path = weights.fetch(OFFICIAL, accept_licence=True, sources=(address,))
    assert path == tmp_path / "weights" / "net.pth"
    assert weights.fetch(OFFICIAL, offline=True) == path


def test_registry_is_complete_and_consistent():
    assert len({official.name for official in OFFICIAL_FILES}) == len(OFFICIAL_FILES)
    for official in OFFICIAL_FILES:
        assert official.sources and all(source.startswith(("https://", "gdrive:")) for source in official.sources)
        assert 8 <= len(official.sha256) <= 64 and set(official.sha256) <= set("0123456789abcdef")
        assert official.architecture in weights.ROLES[official.role] and official.licence and official.origin
    needed = {official.role for official in OFFICIAL_FILES if official.needed}
    assert needed >= set(weights.NEEDED_ROLES)
    assert [official.name for official in weights.official_files(["identity", "ffhq.pkl"])] == [
        "model_ir_se50.pth",
        "ffhq.pkl",
    ]
    with pytest.raises(UsageError, match="no such bundle"):
        weights.official_files(["nothing"])

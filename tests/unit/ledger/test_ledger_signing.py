"""Keys and signatures: what is accepted, everything near it that is not, and an independent implementation's word."""

from __future__ import annotations

import base64
import errno
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from lanemark.cli.main import main
from lanemark.ledger import keys, signing
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.verify import verify_bytes, verify_file
from lanemark.records.encoding import digest, encode
from lanemark.records.errors import DataError, GateRefused, LanemarkError, LedgerError, RecordError

CORPUS = Path(__file__).parents[2] / "assets" / "records" / "good"
DATA = (CORPUS / "eager_ddp_cpu.json").read_bytes()
OTHER = (CORPUS / "synthetic.json").read_bytes()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(private key, public key, their directory)."""
    where = tmp_path_factory.mktemp("keys")
    keys.make_key(where / "a.pem")
    return keys.load_signing_key(where / "a.pem"), keys.load_public_key(where / "a.pem.pub"), where


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    where = tmp_path_factory.mktemp("more-keys")
    keys.make_key(where / "b.pem")
    return keys.load_signing_key(where / "b.pem"), keys.load_public_key(where / "b.pem.pub")


def slug_of(call, *args, **kwargs):
    with pytest.raises(LanemarkError) as caught:
        call(*args, **kwargs)
    return caught.value.slug


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_new_key_is_private_and_its_public_half_lies_beside_it(tmp_path):
    before = os.umask(0)
    try:
        public, beside = keys.make_key(tmp_path / "my.pem")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "my.pem").stat().st_mode) == 0o600
    assert beside == tmp_path / "my.pem.pub"
    assert (tmp_path / "my.pem").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert b"PRIVATE" not in beside.read_bytes()
    loaded = keys.load_signing_key(tmp_path / "my.pem")
    assert loaded.public.raw == public.raw == keys.load_public_key(beside).raw
    assert public.keyid == loaded.public.keyid
    assert "BEGIN" not in repr(loaded)


@pytest.mark.parametrize("taken", ["k.pem", "k.pem.pub"])
def test_a_key_is_never_overwritten(tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(DataError) as caught:
        keys.make_key(tmp_path / "k.pem")
    assert caught.value.slug == "key-exists"
    assert taken in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"


def test_a_dangling_link_is_not_followed_when_a_key_is_made(tmp_path):
    (tmp_path / "k.pem").symlink_to(tmp_path / "elsewhere")
    assert slug_of(keys.make_key, tmp_path / "k.pem") == "key-exists"
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_that_cannot_be_written_is_one_clear_error(tmp_path):
    assert slug_of(keys.make_key, tmp_path / "none" / "k.pem") == "key-unusable"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601])
def test_a_private_key_that_others_may_use_is_refused(tmp_path, mode):
    keys.make_key(tmp_path / "k.pem")
    (tmp_path / "k.pem").chmod(mode)
    with pytest.raises(DataError, match=f"{mode:04o}") as caught:
        keys.load_signing_key(tmp_path / "k.pem")
    assert caught.value.slug == "key-exposed"
    (tmp_path / "k.pem").chmod(0o400)
    assert keys.load_signing_key(tmp_path / "k.pem")


def test_a_private_key_of_another_user_is_refused(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("giving a file away needs root")
    keys.make_key(tmp_path / "k.pem")
    os.chown(tmp_path / "k.pem", 12345, -1)
    assert slug_of(keys.load_signing_key, tmp_path / "k.pem") == "key-exposed"


def foreign_keys():
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    none, pkcs8 = form.NoEncryption(), form.PrivateFormat.PKCS8
    curve, ed = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    return {
        "another-kind": curve.private_bytes(form.Encoding.PEM, pkcs8, none),
        "another-public-kind": curve.public_key().public_bytes(
            form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
        ),
        "encrypted": ed.private_bytes(form.Encoding.PEM, pkcs8, form.BestAvailableEncryption(b"x")),
        "der": ed.private_bytes(form.Encoding.DER, pkcs8, none),
        "text": b"hello\n",
        "empty": b"",
        "large": b"x" * 100_000,
    }


@pytest.mark.parametrize("name", foreign_keys())
def test_what_is_no_key_of_ours_is_refused(tmp_path, name):
    (tmp_path / "k").write_bytes(foreign_keys()[name])
    (tmp_path / "k").chmod(0o600)
    assert slug_of(keys.load_signing_key, tmp_path / "k") == "key-unusable"
    assert slug_of(keys.load_public_key, tmp_path / "k") == "key-unusable"


def test_the_two_halves_are_not_taken_for_one_another(pair):
    where = pair[2]
    with pytest.raises(DataError, match="private key, which is never needed"):
        keys.load_public_key(where / "a.pem")
    os.chmod(where / "a.pem.pub", 0o600)
    assert slug_of(keys.load_signing_key, where / "a.pem.pub") == "key-unusable"


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "missing"):
        assert slug_of(keys.load_signing_key, path) == "key-unusable"
        assert slug_of(keys.load_public_key, path) == "key-unusable"


@pytest.mark.parametrize("call", [keys.make_key, keys.load_signing_key, keys.load_public_key])
def test_without_cryptography_one_error_says_what_to_install(tmp_path, monkeypatch, call):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    with pytest.raises(GateRefused, match=r"pip install 'lanemark\[sign\]'") as caught:
        call(tmp_path / "k.pem")
    assert (caught.value.slug, caught.value.exit_code) == ("cryptography-missing", 4)
    assert list(tmp_path.iterdir()) == []


# -- envelopes ---------------------------------------------------------------------------------------------------------


def test_what_is_signed_is_the_pre_authentication_encoding():
    """The example of the DSSE specification."""
    assert signing.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_a_signature_is_accepted_and_the_record_stays_as_it_is(tmp_path, pair):
    private, public, _ = pair
    appended = Ledger(tmp_path, {}).append(DATA)
    path = signing.sign(tmp_path, DATA, private)
    assert path == tmp_path / "sigs" / appended.id.removeprefix("sha256:") / f"{public.keyid}.json"
    first = path.read_bytes()
    assert signing.sign(tmp_path, DATA, private) == path
    assert path.read_bytes() == first
    assert appended.path.read_bytes() == DATA
    assert base64.b64decode(json.loads(first)["payload"]) == DATA
    signing.check_signatures((tmp_path,), DATA, (public,))
    assert signing.signers((tmp_path,), appended.id) == (public.keyid,)


def envelope(**changes):
    def make(private):
        doc = json.loads(signing.envelope_of(DATA, private))
        for name, change in changes.items():
            doc[name] = change(doc[name])
        return encode(doc)

    return make


def signature(change):
    return envelope(signatures=lambda found: [found[0] | {"sig": change(found[0]["sig"])}])


def flipped(text):
    raw = bytearray(base64.b64decode(text))
    raw[0] ^= 1
    return base64.b64encode(bytes(raw)).decode()


def shortened(text):
    return base64.b64encode(base64.b64decode(text)[:-1]).decode()


def loose_bits(text):
    """The same bytes under another spelling: the unused low bits of the last digit set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = text.rstrip("=")
    other = body[:-1] + alphabet[alphabet.index(body[-1]) | 1] + "=" * (len(text) - len(body))
    assert other != text
    assert base64.b64decode(other) == base64.b64decode(text)
    return other


FALSE = {
    "another record's payload": envelope(payload=lambda _: base64.b64encode(OTHER).decode()),
    "an edited payload": envelope(payload=flipped),
    "an empty payload": envelope(payload=lambda _: ""),
    "another payload type": envelope(payloadType=lambda _: "application/json"),
    "a flipped bit": signature(flipped),
    "a truncated signature": signature(shortened),
    "an empty signature": signature(lambda _: ""),
    "a longer signature": signature(lambda text: base64.b64encode(base64.b64decode(text) + b"\0").decode()),
    "loose bits in base64": signature(loose_bits),
    "base64 with a line break": signature(lambda text: text[:20] + "\n" + text[20:]),
    "base64 without padding": signature(lambda text: text.rstrip("=")),
    "base64 of the URL kind": signature(lambda text: text.replace("+", "-").replace("/", "_") if set(text) & {"+", "/"} else "-" + text[1:]),
    "base64 that is not text of it": signature(lambda _: "é" * 88),
    "another key id": envelope(signatures=lambda found: [found[0] | {"keyid": "0" * 64}]),
    "no signature": envelope(signatures=lambda _: []),
    "an extra signature": envelope(signatures=lambda found: [found[0], found[0] | {"keyid": "0" * 64}]),
    "a signature that is no object": envelope(signatures=lambda _: ["x"]),
    "signatures that are no list": envelope(signatures=lambda found: found[0]),
    "a further field": lambda key: encode(json.loads(signing.envelope_of(DATA, key)) | {"note": ""}),
    "a further field of a signature": envelope(signatures=lambda found: [found[0] | {"cert": ""}]),
    "a field missing": lambda key: encode({"payload": "", "payloadType": ""}),
    "a key twice": lambda key: signing.envelope_of(DATA, key)[:-2] + b',"payload":""}',
    "a truncated envelope": lambda key: signing.envelope_of(DATA, key)[:-20],
    "two documents": lambda key: signing.envelope_of(DATA, key) * 2,
    "an empty file": lambda key: b"",
    "a list": lambda key: b"[]",
    "another record's envelope": lambda key: signing.envelope_of(OTHER, key),
}  # fmt: skip


@pytest.mark.parametrize("name", FALSE)
def test_whatever_is_not_exactly_a_signature_is_refused(tmp_path, pair, name):
    private, public, _ = pair
    record_id = Ledger(tmp_path, {}).append(DATA).id
    path = signing.sign(tmp_path, DATA, private)
    assert Ledger(tmp_path, {}).verify(record_id, keys=(public,)).ok
    path.write_bytes(FALSE[name](private))
    with pytest.raises(RecordError) as caught:
        signing.check_signatures((tmp_path,), DATA, (public,))
    assert caught.value.slug == "signature-invalid"
    report = Ledger(tmp_path, {}).verify(record_id, keys=(public,))
    assert not report.ok
    assert (report.failure.number, report.failure.name, report.failure.slug) == (10, "signature", "signature-invalid")
    assert report.steps[10].status == "skipped"
    assert Ledger(tmp_path, {}).verify(record_id).ok  # nobody asked about that key


def test_a_signature_of_another_key_under_this_ones_name_is_refused(tmp_path, pair, second):
    stranger, wanted = second[0], pair[1]
    doc = json.loads(signing.envelope_of(DATA, stranger))
    doc["signatures"][0]["keyid"] = wanted.keyid
    directory = signing.signature_directory(tmp_path, digest(DATA))
    directory.mkdir(parents=True)
    (directory / f"{wanted.keyid}.json").write_bytes(encode(doc))
    with pytest.raises(RecordError, match="not this key's"):
        signing.check_signatures((tmp_path,), DATA, (wanted,))


def test_every_named_key_must_have_signed(tmp_path, pair, second):
    record_id = Ledger(tmp_path, {}).append(DATA).id
    ledger = Ledger(tmp_path, {})
    signing.sign(tmp_path, DATA, pair[0])
    assert ledger.verify(record_id, keys=(pair[1],)).ok
    report = ledger.verify(record_id, keys=(pair[1], second[1]))
    assert (report.ok, report.failure.slug) == (False, "signature-missing")
    signing.sign(tmp_path, DATA, second[0])
    assert ledger.verify(record_id, keys=(pair[1], second[1])).ok
    assert "1 at hand" in ledger.verify(record_id, keys=(pair[1],)).steps[9].detail
    step = ledger.verify(record_id).steps[9]
    assert (step.status, "not checked" in step.detail, "2 at hand" in step.detail) == ("skipped", True, True)


def test_a_lone_file_may_bring_its_signatures_along(tmp_path, pair):
    path = tmp_path / "record.json"
    path.write_bytes(DATA)
    assert verify_file(path, keys=(pair[1],)).failure.slug == "signature-missing"
    signing.sign(tmp_path, DATA, pair[0])
    assert verify_file(path, keys=(pair[1],)).ok
    assert verify_bytes(DATA, keys=(pair[1],)).failure.slug == "signature-missing"
    assert verify_bytes(DATA, ledger_root=tmp_path, keys=(pair[1],)).ok


def test_could_not_look_is_not_no_signature(tmp_path, pair):
    directory = signing.signature_directory(tmp_path, digest(DATA))
    (directory / f"{pair[1].keyid}.json").mkdir(parents=True)
    with pytest.raises(RecordError, match="cannot be read"):
        signing.check_signatures((tmp_path,), DATA, (pair[1],))


def test_signing_where_nothing_can_be_written_is_one_clear_error(tmp_path, pair):
    (tmp_path / "sigs").write_text("in the way")
    with pytest.raises(LedgerError) as caught:
        signing.sign(tmp_path, DATA, pair[0])
    assert caught.value.slug == "ledger-unwritable"


# -- the independent implementation ------------------------------------------------------------------------------------


def test_key_ids_and_signatures_of_ours_are_accepted_by_securesystemslib(pair):
    dsse = pytest.importorskip("securesystemslib.dsse", reason="needs securesystemslib, which is of the dev extra")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from securesystemslib.signer import SSlibKey

    theirs = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(pair[1].raw))
    assert theirs.keyid == pair[1].keyid
    read = dsse.Envelope.from_dict(json.loads(signing.envelope_of(DATA, pair[0])))
    assert read.payload == DATA
    assert list(read.verify([theirs], 1)) == [theirs.keyid]


def test_signatures_of_securesystemslib_are_accepted_by_us():
    dsse = pytest.importorskip("securesystemslib.dsse", reason="needs securesystemslib, which is of the dev extra")
    from securesystemslib.signer import CryptoSigner

    signer = CryptoSigner.generate_ed25519()
    made = dsse.Envelope(DATA, signing.PAYLOAD_TYPE, {})
    made.sign(signer)
    public = keys.PublicKey(bytes.fromhex(signer.public_key.keyval["public"]), "theirs")
    assert public.keyid == signer.public_key.keyid
    signing.check_envelope(json.dumps(made.to_dict()).encode(), DATA, public)
    with pytest.raises(RecordError):
        signing.check_envelope(json.dumps(made.to_dict()).encode(), OTHER, public)


# -- the verb ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    monkeypatch.delenv("LANEMARK_LEDGER", raising=False)
    return tmp_path


def test_from_a_new_key_to_a_checked_signature(place, capsys):
    record_id = Ledger(place / "ledger", {}).append(DATA).id
    assert main(["sign", record_id]) == 2
    assert "[key-unusable]" in capsys.readouterr().err
    assert main(["sign", "--new-key", str(place / "keys" / "signing.pem"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert stat.S_IMODE((place / "keys").stat().st_mode) == 0o700
    assert main(["sign", record_id[:20], "--json"]) == 0
    signed = json.loads(capsys.readouterr().out)["signatures"]
    assert [(one["record_id"], one["keyid"]) for one in signed] == [(record_id, made["keyid"])]
    assert main(["verify", record_id, "--key", made["public_key"]]) == 0
    assert "10. signature ok" in capsys.readouterr().out
    assert main(["verify", record_id]) == 0
    assert "not checked" in capsys.readouterr().out
    file = next((place / "ledger" / "objects").glob("*/*.json"))
    assert main(["verify", str(file), "--key", made["public_key"]]) == 0
    Path(signed[0]["signature"]).unlink()
    assert main(["verify", record_id, "--key", made["public_key"]]) == 1
    assert "[signature-missing]" in capsys.readouterr().out
    assert main(["sign", "--new-key", str(place / "keys" / "signing.pem")]) == 2
    assert "[key-exists]" in capsys.readouterr().err


def test_a_home_without_room_for_keys_is_one_clear_error(place, capsys):
    (place / "keys").write_text("in the way")
    assert main(["sign", "--new-key", str(place / "keys" / "signing.pem")]) == 2
    assert "[key-unusable]" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["sign"], ["sign", "--new-key", "x", "y"], ["sign", "--new-key", "x", "--key", "y"]])
def test_requests_that_cannot_be_meant(place, capsys, args):
    assert main(args) == 2
    assert "[arguments-invalid]" in capsys.readouterr().err


def test_a_record_that_contradicts_itself_is_not_signed(place, capsys):
    cheat = next((CORPUS.parent / "cheat").glob("*.json")).read_bytes()
    record_id = Ledger(place / "ledger", {}).append(cheat).id
    keys.make_key(place / "k.pem")
    assert main(["sign", record_id, "--key", str(place / "k.pem")]) == 1
    assert "[lane-rule-broken]" in capsys.readouterr().err
    assert not (place / "ledger" / "sigs").exists()


def test_signing_replaces_nothing_and_keeps_what_another_tool_wrote(tmp_path, pair):
    path = signing.sign(tmp_path, DATA, pair[0])
    spaced = json.dumps(json.loads(path.read_bytes()), indent=2).encode()
    path.write_bytes(spaced)
    assert signing.sign(tmp_path, DATA, pair[0]) == path
    assert path.read_bytes() == spaced
    path.write_bytes(b"{}")
    assert slug_of(signing.sign, tmp_path, DATA, pair[0]) == "signature-conflict"
    assert path.read_bytes() == b"{}"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("taken", [False, True])
def test_a_signature_is_kept_without_hard_links_too(tmp_path, monkeypatch, taken):
    def refuse(*_args):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    if taken:
        assert signing.keep(tmp_path, digest(DATA), "a" * 64, b"first") is None
    assert signing.keep(tmp_path, digest(DATA), "a" * 64, b"second") == (b"first" if taken else None)
    assert len(list((tmp_path / "sigs").glob("*/*"))) == 1

"""Secrets never pass: names, shapes and known values; and what is no secret stays byte for byte."""

from __future__ import annotations

import base64
import json
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanemark.observe.environment import allowed, snapshot
from lanemark.observe.redaction import REDACTED, known_secrets, redact_argv, redact_text, secret_name, secret_shape

#: Planted values, assembled so that no scanner takes this file for a leak.
PLANTED = "pl4nted" + "Value" + "99"
SHAPED = {
    "hugging face": "hf_" + "AbCdEfGhIjKlMnOpQrSt",
    "github": "ghp_" + "a1B2c3D4e5F6g7H8i9J0",
    "github fine": "github_pat_" + "11ABCDEFG0aBcDeFgHiJkL",
    "gitlab": "glpat-" + "aBcDeFgHiJ1234567890",
    "openai": "sk-" + "proj-a1b2c3d4e5f6g7h8",
    "anthropic": "sk-" + "ant-api03-a1b2c3d4e5",
    "aws id": "AKIA" + "IOSFODNN7EXAMPLE",
    "aws session id": "ASIA" + "IOSFODNN7EXAMPLE",
    "aws key": "wJalrXUtnFEMI/K7MDENG" + "/bPxRfiCYEXAMPLEKEY",
    "slack": "xoxb-" + "123456789012-abcdefghijkl",
    "slack hook": "https://hooks.slack.com/" + "services/T000/B000/abc123",
    "google": "AIza" + "SyA1234567890abcdefghijk",
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcDEF123",
    "nvidia": "nvapi-" + "abcdef1234567890",
    "pem": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
    "bearer": "Bearer " + "abcdef.123456",
    "url": "https://joe:" + "hunter22@host/path",
    "url with at": "postgres://joe:" + "hun@ter22@host/db",
    "no scheme": "joe:" + "hunter22@db.example:5432/x",
    "signed url": "https://b.s3.amazonaws.com/k?X-Amz-Signature=" + "deadbeef01&x=1",
    "generated": "Zm9v" + "QmFyMTIzYmF6UXV4NDU2cXV1eDc4OQ",
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPED)
def test_shape_refused_anywhere(shape: str) -> None:
    secret = SHAPED[shape]
    core = secret.split("://")[-1] if shape == "url" else secret
    for argv in ([secret], ["--note", f"see {secret} there"], [f"--x={secret}"], ["bash", "-c", f"run '{secret}' now"]):
        kept, changed = redact_argv(argv)
        assert changed
        assert core not in "\n".join(kept)
        assert REDACTED in "\n".join(kept)
    assert snapshot({"NCCL_DEBUG": secret}) == {"NCCL_DEBUG": REDACTED}


@pytest.mark.parametrize(
    "argv",
    [
        ["--token", PLANTED],
        ["--hf-token", PLANTED],
        ["--hf_token=" + PLANTED],
        ["--api-key", PLANTED],
        ["--apiKey", PLANTED],
        ["--api-key=" + PLANTED + ",with comma"],
        ["-Dpassword=" + PLANTED],
        ["password=" + PLANTED],
        ["HF_TOKEN=" + PLANTED],
        ["env", "WANDB_API_KEY=" + PLANTED, "python", "t.py"],
        ["bash", "-c", f"export DB_PASSWORD={PLANTED}; python t.py"],
        ["bash", "-c", f"HF_TOKEN='{PLANTED} x' python t.py"],
        ["--config", json.dumps({"lr": 1, "client_secret": PLANTED})],
        ["--config", f"{{api_key: {PLANTED}}}"],
        ["-H", f"Authorization: Digest {PLANTED}, a=b"],
        ["-H", f"Cookie: session={PLANTED}; x=y"],
        ["-u", "joe:" + PLANTED],
        ["--user", "joe:" + PLANTED],
        ["--data", f"https://h/p?lr=1&access_token={PLANTED}&x=2"],
        ["--data=https://h/p?sig=" + PLANTED],
        ["wandb.api_key=" + PLANTED],
        ["--opts=a=1,secret=" + PLANTED],
        ["--aws-secret-access-key", PLANTED],
        ["MYSECRETTHING=" + PLANTED],
        ["--credentials=" + PLANTED],
    ],
)
def test_named_secret_refused(argv: list[str]) -> None:
    kept, changed = redact_argv(argv)
    assert changed
    assert PLANTED not in "\n".join(kept)
    assert len(kept) == len(argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["python", "-u", "train.py", "--lr=1e-3", "--seed", "7"],
        ["--tokens", "4096"],
        ["--tokens-per-step=65536"],
        ["--token-budget", "1e9"],
        ["--max-tokens", "8", "--tokenizer", "gpt2"],
        ["--eos-token", "<|endoftext|>"],
        ["--sort-key", "throughput", "model.key_dim=64"],
        ["--author", "Ada"],
        ["--image", "ghcr.io/o/image:tag@sha256:" + "ab12" * 16],
        ["image:tag@sha256:" + "ab12" * 16],
        ["--commit", "5283ceb4db04f0866cb94f8e434448949bd7f798"],
        ["git@github.com:owner/name.git", "http://127.0.0.1:29500/x?step=3"],
        ["/cache/Meta-Llama-3-8B-Instruct-GGUF-Q4_K_M/model-00001-of-00004.safetensors"],
        ["TransformerEncoderLayerWithFlashAttention2Backend"],
        ["c244b2rga7kqcbbf2xhybporem2yeo55qusvywqyipbcdmkdmkrr"],
        ["GPU-7f3a1b2c-1234-5678-9abc-def012345678", "basic training notes", "sk-learn-extras"],
        ["--password"],
        ["--token", "--other", "value"],
        ["--token="],
        ["", " ", "=", ":", "'", '"'],
        ["TORCHINDUCTOR_GEMM_PASS=1"],
    ],
)
def test_ordinary_arguments_stay_verbatim(argv: list[str]) -> None:
    assert redact_argv(argv) == (argv, False)


def test_numeric_secret_is_still_a_secret() -> None:
    assert redact_argv(["--password", "123456"]) == (["--password", REDACTED], True)
    assert redact_argv(["--token", "123456"]) == (["--token", REDACTED], True)


def test_known_value_found_plain_and_encoded() -> None:
    environ = {"HF_TOKEN": PLANTED + "/+", "HOME": "/root"}
    raw = (PLANTED + "/+").encode()
    for disguise in (
        PLANTED + "/+",
        quote(PLANTED + "/+", safe=""),
        raw.hex(),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    ):
        kept, changed = redact_argv(["--note", f"x{disguise}y"], environ)
        assert changed
        assert disguise not in kept[1]
        assert snapshot({**environ, "NCCL_NOTE": f"a {disguise}"}) == {"NCCL_NOTE": REDACTED}


def test_known_values_leave_out_words_numbers_and_paths() -> None:
    environ = {
        "A_TOKEN": "true",
        "B_TOKEN": "12345678",
        "GOOGLE_APPLICATION_CREDENTIALS": "/etc/gcp/key.json",
        "X": "abcdefgh",
    }
    assert known_secrets(environ) == frozenset()
    slashed = "/" + "wJalrXUtnFEMIK7MDENG" + "bPxRfiCY3EXAMPLE"
    assert slashed in known_secrets({"AWS_SECRET_ACCESS_KEY": slashed})


@given(st.text(max_size=200))
def test_redacting_never_fails_and_is_settled_after_once(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once or REDACTED in once


@given(st.lists(st.text(alphabet="abcdefgh -._/", max_size=30), max_size=6))
def test_plain_words_survive(argv: list[str]) -> None:
    assert redact_argv(argv) == (argv, False)


@pytest.mark.parametrize(
    "unit", ["a", "a-", "=", "a=", "://", "/a", "token='", "a:", '"', "eyJaaaaaaa.", "-----BEGIN "]
)
def test_hostile_argument_takes_bounded_time(unit: str) -> None:
    began = time.monotonic()
    redact_argv([unit * (120_000 // len(unit))])
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "apiKey", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "X-Amz-Signature", "SENTRY_DSN", "DB_PASS"]
)
def test_secret_names(name: str) -> None:
    assert secret_name(name)


@pytest.mark.parametrize(
    "name", ["tokenizer", "MASTER_PORT", "sort_key", "AUTHOR", "NCCL_DEBUG", "monkey", "passes", "signals", ""]
)
def test_ordinary_names(name: str) -> None:
    assert not secret_name(name)


# The environment snapshot


def test_allow_list_accepts_and_refuses() -> None:
    for name in (
        "CUDA_VISIBLE_DEVICES",
        "TORCH_LOGS",
        "TORCHINDUCTOR_CACHE_DIR",
        "OMP_NUM_THREADS",
        "MODAL_REGION",
        "TMPDIR",
        "CI",
    ):
        assert allowed(name)
    for name in (
        "HOME",
        "PATH",
        "AWS_ACCESS_KEY_ID",
        "MODAL_TOKEN_ID",
        "MODAL_TOKEN_SECRET",
        "torch_x",
        "TORCH X",
        "CUDA_\n",
        "",
    ):
        assert not allowed(name)


def test_snapshot_keeps_settings_verbatim() -> None:
    environ = {
        "NCCL_DEBUG": "INFO",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:128",
        "LD_LIBRARY_PATH": "/usr/local/cuda/lib64:/opt/x",
        "HOME": "/root",
    }
    assert snapshot(environ) == {name: environ[name] for name in sorted(environ) if name != "HOME"}


def test_planted_secrets_appear_nowhere() -> None:
    """Secrets in every disguise we know, allowed names and others: not one planted value is in the output."""
    planted = {f"{PLANTED}{i}" for i in range(12)}
    values = iter(sorted(planted))
    environ = {
        "TORCH_TOKEN": next(values),
        "NCCL_PASSWORD": next(values),
        "CUDA_API_KEY": next(values),
        "TORCHINDUCTOR_REMOTE_CACHE_SECRET": next(values),
        "NCCL_SOCKET_IFNAME": f"eth0 token={next(values)}",
        "TORCH_LOGS": f"https://joe:{next(values)}@host/x",
        "TRITON_CACHE_URL": f"redis://:{next(values)}@cache:6379/0",
        "GLOO_NOTE": f'{{"password": "{next(values)}"}}',
        "OMP_NOTE": f"Authorization: Bearer {next(values)}",
        "MKL_NOTE": f"s3://b/k?X-Amz-Signature={next(values)}",
        "HF_TOKEN": (copied := next(values)),
        "PYTORCH_NOTE": f"prefix-{copied}-suffix",
        "LANEMARK_NOTE": base64.b64encode(copied.encode()).decode(),
        "DATABASE_URL": f"postgres://u:{next(values)}@h/d",
        "TORCH_" + SHAPED["aws id"]: "1",
    }
    out = snapshot(environ)
    text = json.dumps(out)
    for secret in planted:
        assert secret not in text
        assert base64.b64encode(secret.encode()).decode().rstrip("=") not in text
    assert SHAPED["aws id"] not in text
    assert out["TORCH_TOKEN"] == out["NCCL_PASSWORD"] == out["TORCH_LOGS"] == out["LANEMARK_NOTE"] == REDACTED
    assert "HF_TOKEN" not in out
    assert "DATABASE_URL" not in out


def test_long_and_undecodable_values() -> None:
    assert snapshot({"NCCL_TOPO": "x/" * 5000}) == {"NCCL_TOPO": "[left out: 10000 characters]"}
    out = snapshot({"NCCL_TOPO_FILE": b"/a\xff".decode("utf-8", "surrogateescape")})
    assert json.dumps(out, ensure_ascii=False).encode("utf-8")


def test_secret_shape_refuses_words() -> None:
    assert secret_shape(SHAPED["openai"])
    assert not secret_shape("just a few words, 12 of them")

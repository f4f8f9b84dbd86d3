"""What is asked of Modal, as data: GPU specifications, refusals, and the whole request held to golden files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lanemark.launch.modal import ModalSurface
from lanemark.launch.modal_gpu import in_order, on_modal
from lanemark.launch.modal_request import OVERHEAD_S, Bucket, Rental, function_timeout_s, modal_request
from lanemark.launch.surface import Placement
from lanemark.records.attempt import Home
from lanemark.records.case import Case, DataAsked, parse_gpu
from lanemark.records.errors import UsageError

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "modal"
IMAGE = "docker.io/pytorch/pytorch@sha256:" + "ab" * 32


def case(**changes: object) -> Case:
    fields: dict[str, object] = {
        "lane": "training", "preset": "dense-nano", "nproc": 8, "mode": "fsdp2", "compile": "regional", "dtype": "bf16",
        "steps": 10, "warmup": 3, "sequence": 64, "micro_batch": 1, "data": DataAsked("synthetic"), "gpu": "H100!:8",
        "surface": "modal", **changes,
    }  # fmt: skip
    return Case(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("H100!:8", "H100!:8"), ("H100!", "H100!:1"), ("H200:8", "H200:8"), ("H200!:8", "H200:8"), ("B200", "B200:1"),
        ("A100-80GB:2", "A100-80GB:2"), ("L40S", "L40S:1"), ("RTX-PRO-6000", "RTX-PRO-6000:1"), ("cpu", None),
    ],
)  # fmt: skip
def test_a_specification_that_names_one_class_is_written_as_modal_takes_it(text: str, there: str | None) -> None:
    assert on_modal(parse_gpu(text), allow_substitute=False) == there


@pytest.mark.parametrize(
    ("text", "advice"), [("H100:8", "H100!"), ("A100", "A100-40GB or A100-80GB"), ("B200+:8", "B200")]
)
def test_what_may_be_served_by_another_class_wants_leave(text: str, advice: str) -> None:
    with pytest.raises(UsageError, match="another class") as caught:
        on_modal(parse_gpu(text), allow_substitute=False)
    assert caught.value.slug == "gpu-spec-invalid"
    assert advice in caught.value.remedy
    written = on_modal(parse_gpu(text), allow_substitute=True)
    assert written is not None
    assert written.partition(":")[0] == text.partition(":")[0]


@pytest.mark.parametrize("text", ["any", "H100+", "A100!"])
def test_what_names_no_device_or_none_that_modal_has_is_refused_with_any_leave(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        on_modal(parse_gpu(text), allow_substitute=True)
    assert caught.value.slug == "gpu-spec-invalid"


def test_fallbacks_keep_their_order_and_a_pinned_class_has_none() -> None:
    assert in_order("H200:8", ["H100:8", "A100-80GB:8"], allow_substitute=False) == ("H200:8", "H100:8", "A100-80GB:8")
    for first, fallbacks in (("H100!:8", ["H200:8"]), ("H200:8", ["H100:4"]), ("H200", ["cpu"]), ("L4", ["T4"] * 5)):
        with pytest.raises(UsageError):
            in_order(first, fallbacks, allow_substitute=True)


@pytest.mark.parametrize(
    "image", ["pytorch/pytorch:2.11", "pytorch/pytorch", "", "x@sha256:" + "ab" * 31, "a b@sha256:" + "ab" * 32]
)
def test_an_image_without_its_digest_is_refused(image: str) -> None:
    with pytest.raises(UsageError) as caught:
        modal_request(case(), Rental(image=image))
    assert caught.value.slug == "modal-image-unpinned"


@pytest.mark.parametrize(
    "changes",
    [
        {"add_python": "2.7"}, {"region": "US East"}, {"secrets": ("a b",)}, {"environment": "x/y"},
        {"results": "one", "cache": "one"}, {"data": ""},
    ],
)  # fmt: skip
def test_names_that_the_service_would_refuse_later_are_refused_now(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        modal_request(case(), Rental(image=IMAGE, **changes))  # type: ignore[arg-type]
    assert caught.value.slug == "value-invalid"


def test_the_time_limit_leaves_room_around_the_run_and_stays_within_the_service_s() -> None:
    assert function_timeout_s(case(wall_s=3600.0)) == 3600 + OVERHEAD_S
    with pytest.raises(UsageError, match="24 hours"):
        function_timeout_s(case(wall_s=86_400.0))


def test_secrets_are_names_and_a_bucket_is_read_only() -> None:
    rental = Rental(image=IMAGE, secrets=("wandb", "hf"), bucket=Bucket("tokens", "fineweb/", "s3"), checkpoints="ck")
    request = modal_request(case(), rental)
    assert request["secrets"] == ["hf", "wandb"]
    assert request["bucket"]["read_only"] is True
    assert len({about["name"] for about in request["volumes"].values()}) == 4


REQUESTS = {
    "H100-pinned-8": (case(), Rental(image=IMAGE, region="us-east", disk_mib=600 * 1024)),
    "H200-8": (case(gpu="H200:8", prewarm="off"), Rental(image=IMAGE, fallbacks=("H100:8",), secrets=("hf",))),
    "B200": (case(gpu="B200", nproc=1, mode="single"), Rental(image=IMAGE, cpu=16.0, memory_mib=65_536)),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_request_is_the_golden_one(name: str, tmp_path: Path, update_golden: bool) -> None:
    asked, rental = REQUESTS[name]
    request = ModalSurface(rental).request(asked, Placement(Home(tmp_path)))
    text = json.dumps(request.to_json(), indent=2, sort_keys=True) + "\n"
    path = GOLDEN / f"{name}.json"
    if update_golden:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run with --update-golden and read the difference"

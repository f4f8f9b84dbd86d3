"""Rules about words: lane, hardware, mode, posture, starting line, data path, as a sentence names them. Pure.

A word that the record contradicts is an overreach; one that the text itself denies ("no throughput follows") is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from lanemark.judge.claim import ANY_CASE, RATE_UNIT, Claim, said
from lanemark.records.case import GPU_NAMES
from lanemark.records.observation import value_of

_BETWEEN_RUNS: Final = re.compile(
    r"\b(?:reproducib\w+|replicat\w+|consistent(?:ly)?|across runs|between runs|run[- ]to[- ]run|"
    r"(?:average|mean|median|best) (?:of|over) \d+ runs)\b",
    ANY_CASE,
)
_SWEEPING: Final = re.compile(
    r"\b(?:always|never|guarantee\w*|proves?|proven|production[- ]ready|state of the art|any (?:model|gpu|workload)|"
    r"all (?:models|gpus|workloads)|in general|generally|peak|up to)\b",
    ANY_CASE,
)
_DEVICE: Final = re.compile(
    r"(?<![\w-])(?:(?P<count>\d+)\s?[x×]\s?)?(?P<name>" + "|".join(sorted(GPU_NAMES, key=len, reverse=True))
    + r"|GB200|GB300|GH200|MI300X?|TPU)(?![\w])(?:\s?[x×]\s?(?P<after>\d+))?", ANY_CASE,
)  # fmt: skip
_MODES: Final = {
    "fsdp2": re.compile(r"\bfsdp2?\b", ANY_CASE), "ddp": re.compile(r"\bddp\b", ANY_CASE),
    "single": re.compile(r"\bsingle[- ](?:process|rank|gpu|device)\b", ANY_CASE),
}  # fmt: skip
_POSTURE_WORDS: Final = {
    "eager": re.compile(r"\beager(?:ly)?\b|\buncompiled\b", ANY_CASE),
    "regional": re.compile(r"\bregional(?:ly)?\b", ANY_CASE),
    "model": re.compile(r"\bwhole[- ]model\b|\bcompiled whole\b|\bfull(?:y)?[- ]compiled?\b", ANY_CASE),
}
_COMPILED: Final = re.compile(r"\b(?:torch\.compile|compiled)\b", ANY_CASE)
_START_WORDS: Final = {
    "cold": re.compile(r"\bcold\b", ANY_CASE), "warm": re.compile(r"(?<!partly )\bwarm(?!-up|up)\b", ANY_CASE),
    "seeded": re.compile(r"\bseeded\b(?! from the image)", ANY_CASE),
    "partly_warm": re.compile(r"\bpartly warm\b", ANY_CASE),
    "snapshot_restored": re.compile(r"\bsnapshot\b", ANY_CASE),
}  # fmt: skip
_PATH_WORDS: Final = {
    "local_disk": re.compile(r"\b(?:local disk|nvme|ssd)\b", ANY_CASE),
    "object_mount": re.compile(r"\b(?:object[- ]stor\w+|s3|gcs|bucket)\b", ANY_CASE),
    "network_volume": re.compile(r"\b(?:network volume|nfs)\b", ANY_CASE),
}
_REAL_DATA: Final = re.compile(r"\breal (?:data|tokens|text)\b|\bend[- ]to[- ]end\b", ANY_CASE)
_DTYPES: Final = re.compile(r"\b(bf16|fp32|fp16|fp8|nvfp4|fp4|tf32|int8)\b", ANY_CASE)
_SHORT: Final = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_SURFACES: Final = re.compile(r"\b(modal|slurm)\b", ANY_CASE)
_THROUGHPUT: Final = re.compile(rf"\bthroughput\b|{RATE_UNIT}", ANY_CASE)


def wrong_lane(claim: Claim) -> Iterable[tuple[str, str]]:
    lane = claim.record.lane
    if lane != "training":
        for words in said(_THROUGHPUT, claim.text):
            yield words, f"a record of the {lane} lane never shows a throughput"
    for other in ("training", "sparse", "promotion"):
        pattern = re.compile(rf"\b{other} lane\b", ANY_CASE)
        if other != lane:
            for words in said(pattern, claim.text):
                yield words, f"the record is of the {lane} lane"
    if lane != "promotion":
        for words in said(re.compile(r"\b(?:promoted|promotion[- ]ready|accepted|validated)\b", ANY_CASE), claim.text):
            yield words, f"a record of the {lane} lane accepts nothing"
    if lane == "promotion" and claim.doc["promotion"]["promotion_ready"] is not True:
        for words in said(re.compile(r"(?<!not )\b(?:ready|promoted|accepted|validated)\b", ANY_CASE), claim.text):
            yield words, "the record does not say that the candidate is ready"


def hardware(claim: Claim) -> Iterable[tuple[str, str]]:
    doc, seen = claim.doc, claim.record.device_class
    number = value_of(doc["hardware"]["observed"]["device_count"])
    asked = str(doc["case"]["gpu"])
    for match in _DEVICE.finditer(claim.text):
        name = match["name"].upper()
        if re.match(r"[!+:\d]*\s+was requested", claim.text[match.end() :]):
            continue  # the caveat that says so
        count = match["count"] or match["after"]
        if seen is None or not seen.upper().startswith(name):
            found = "requested and not observed" if asked.upper().startswith(name) else "neither requested nor observed"
            yield match[0], f"was {found}; what was observed is {seen or 'unknown'}"
        elif count is not None and int(count) != number:
            yield match[0], f"{number} were observed"
    if (
        seen is not None
        and seen != "cpu"
        and (words := said(re.compile(r"\bon (?:a )?(?:host )?cpus?\b", ANY_CASE), claim.text))
    ):
        yield words[0], f"what was observed is {seen}"


def _words(claim: Claim, words: dict[str, re.Pattern[str]], seen: Any, what: str) -> Iterable[tuple[str, str]]:
    for name, pattern in words.items():
        if name != seen:
            for found in said(pattern, claim.text):
                yield found, f"the observed {what} is {seen or 'unknown'}"


def mode(claim: Claim) -> Iterable[tuple[str, str]]:
    return _words(claim, _MODES, value_of(claim.doc["distributed"]["observed"]["mode"]), "mode")


def posture(claim: Claim) -> Iterable[tuple[str, str]]:
    seen = value_of(claim.doc["compile"]["observed"]["posture"])
    yield from _words(claim, _POSTURE_WORDS, seen, "compile posture")
    if seen == "eager":
        for words in said(_COMPILED, claim.text):
            yield words, "the observed compile posture is eager"


def start(claim: Claim) -> Iterable[tuple[str, str]]:
    seen = value_of(claim.doc["startup"]["state"])
    return _words(claim, _START_WORDS, "seeded" if seen == "image_seed" else seen, "start-up state")


def data_path(claim: Claim) -> Iterable[tuple[str, str]]:
    seen = value_of(claim.doc["data"]["path_class"])
    yield from _words(claim, _PATH_WORDS, seen, "data path")
    if seen in (None, "synthetic"):
        for words in said(_REAL_DATA, claim.text):
            yield words, f"the observed data path is {seen or 'unknown'}"


def precision(claim: Claim) -> Iterable[tuple[str, str]]:
    dtypes = {claim.doc["case"]["dtype"]}
    script = claim.doc["training"].get("script") if claim.record.lane == "training" else None
    if script is not None:  # the case leaves it open: what counts is what the trained parameters were seen to be
        dtypes = {_SHORT.get(name, name) for name in value_of(script["parameter_dtypes"]) or ()}
    if claim.record.lane == "sparse":
        dtypes |= {result["case"]["dtype"] for result in claim.doc["sparse"]["results"]}
    for match in _DTYPES.finditer(claim.text):
        if match[0].lower() not in dtypes:
            yield match[0], f"the precision is {', '.join(sorted(dtypes))}"


def surface(claim: Claim) -> Iterable[tuple[str, str]]:
    for match in _SURFACES.finditer(claim.text):
        if match[0].lower() != claim.doc["surface"]["name"]:
            yield match[0], f"the run was on the surface {claim.doc['surface']['name']}"


def backend(claim: Claim) -> Iterable[tuple[str, str]]:
    """A backend that was asked for, said to have run, where another one did."""
    if claim.record.lane != "sparse":
        return
    ran = {value_of(result["backend_identity"]["actual"]) for result in claim.doc["sparse"]["results"]}
    asked = {result["backend_identity"]["requested"] for result in claim.doc["sparse"]["results"]}
    for name in sorted(asked - ran):
        for match in re.finditer(
            rf"\b{re.escape(name)}\b(?:\s+\w+){{0,3}}\s+(?:ran|runs|executed)\b|"
            rf"\b(?:ran|runs|with|using) {re.escape(name)}\b",
            claim.text,
            ANY_CASE,
        ):
            yield match[0], f"{name} was requested, and what ran is {', '.join(sorted(str(each) for each in ran))}"


def between_runs(claim: Claim) -> Iterable[tuple[str, str]]:
    if claim.comparison is not None:
        return
    for words in said(_BETWEEN_RUNS, claim.text):
        yield words, "the record is of one run and knows nothing of the spread between runs"


def sweeping(claim: Claim) -> Iterable[tuple[str, str]]:
    for words in said(_SWEEPING, claim.text):
        yield words, "the record is of one case on one machine on one day"

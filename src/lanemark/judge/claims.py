"""What does a sentence claim beyond a record? A decision list of pattern rules, each of which can be read. Pure.

It does not understand language. Each rule looks for one kind of word or number and asks the record about it; what no
rule knows passes. So a clean result means that none of these overreaches was found, not that the sentence is true. In
doubt a rule speaks: a text that is right and cautious in other words than ours is better asked about than believed.

The rules are in `RULES`, in order; each has its reason, and a test with a text it lets pass and one that it catches.
"""

from __future__ import annotations

from typing import Final

from lanemark.judge import claim_figures as figures
from lanemark.judge import claim_words as words
from lanemark.judge.admission import Admitted
from lanemark.judge.citing import Citation, cite
from lanemark.judge.claim import Claim, ClaimRule, Overreach
from lanemark.judge.sets import Comparison

#: The rules, in the order in which their findings are listed. Order matters for reading only: every rule is asked.
RULES: Final[tuple[ClaimRule, ...]] = (
    ClaimRule("no-receipt", "A figure that may not be quoted is quoted.", figures.no_receipt),
    ClaimRule("wrong-lane", "A good result in one lane is no evidence for another.", words.wrong_lane),
    ClaimRule("relative-without-verdict", "A speed-up of things that may not be compared.", figures.relative),
    ClaimRule("number-not-in-record", "A figure that nobody measured, or in another unit.", figures.numbers),
    ClaimRule("count-not-in-record", "More ranks, devices or steps than there were.", figures.counts),
    ClaimRule("hardware-not-observed", "A device that was asked for and never seen.", words.hardware),
    ClaimRule("mode-not-observed", "Another way to share the work.", words.mode),
    ClaimRule("posture-not-observed", "Another compile posture.", words.posture),
    ClaimRule("start-not-observed", "Another starting line.", words.start),
    ClaimRule("data-path-not-observed", "A data path that was not measured.", words.data_path),
    ClaimRule("precision-not-the-cases", "Another precision.", words.precision),
    ClaimRule("surface-not-the-cases", "Another place.", words.surface),
    ClaimRule("backend-not-observed", "A kernel that was asked for and did not run.", words.backend),
    ClaimRule("between-runs", "One run presented as many.", words.between_runs),
    ClaimRule("sweeping", "One case presented as all.", words.sweeping),
    ClaimRule("dropped-caveat", "A figure without what belongs beside it.", figures.dropped),
)


def overreaches(text: str, record: Admitted, comparison: Comparison | None = None) -> tuple[Overreach, ...]:
    """Everything in a text that goes beyond a record, in the order of `RULES`. Never raises for any text.

    Args:
        text: the sentence.
        record: the record that it is said to rest on.
        comparison: of another record (side A) with this one (side B), where the text may rest on that too.
    """
    cited = cite(record)
    claim = Claim(text, record, cited if isinstance(cited, Citation) else None, comparison)
    if not record.predicate:
        return (Overreach("no-record", text[:60], "there is no record to rest on"),)
    found = []
    for rule in RULES:
        found += [Overreach(rule.name, quoted.strip(), why) for quoted, why in rule.check(claim)]
    return tuple(dict.fromkeys(found))

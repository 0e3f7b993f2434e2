"""Whether an object is in sight: a filter over frames instead of a threshold on one number.

SAM2 takes an object for visible when its occlusion logit is above 0. Nano's is above 0 on many
frames without the object, and its candidates, three answers to the same question, then differ.
Both are weighed here, and what was believed before counts too: a two-state Bayes filter in log
odds, whose state is one number per object. Paper silent; StreamDAM (arXiv 2608.03912) gates with
a learned recurrent presence likewise. Predicted IoU added nothing to the fit, motion is judged by
:mod:`panosam2_core.motion`, growth by ``TrackerConfig.most_growth``.
"""

from __future__ import annotations

from torch import Tensor

from panosam2_core.model import Decoded

# Logistic fit to frames of the train split, the present weighed twice: what is hidden by mistake
# is not remembered either. Levels of the logit differ between objects, so its height above
# LOGIT_RANGE[1] says nothing more.
PER_LOGIT, PER_AGREEMENT, PER_SCORE, BIAS = 2.0, 3.6, 3.25, -6.1
CARRY = 0.5  # of the last belief; less than 1, for an object may come and go
MOST = 3.0  # log odds that a belief can have, so that it can change within a few frames
LOGIT_RANGE = (-4.0, 1.0)


def believe(before: Tensor, decoded: Decoded, agreement: Tensor) -> Tensor:
    """Weigh what a frame shows against what was believed.

    Args:
        before: (B,) log odds that the objects were in sight, -MOST .. MOST.
        decoded: of the same objects.
        agreement: (B,) of the candidates, see :func:`panosam2_core.anchors.agreement`.

    Returns:
        (B,) log odds that they are in sight and their masks theirs, -MOST .. MOST.
    """
    evidence = (
        PER_LOGIT * decoded.object_logit[:, 0].clamp(*LOGIT_RANGE)
        + PER_AGREEMENT * agreement
        + PER_SCORE * decoded.score
        + BIAS
    )
    return (CARRY * before + evidence).clamp(-MOST, MOST)

"""Does the data teach timing? Small models trained on it, scored on conversations they have not seen.

    python -m duplexdata.evidence --out runs/evidence

builds a dataset, trains four kinds of model on it with several seeds, scores them, and writes `evidence.md`,
`evidence.json` and `evidence.png`. It can be stopped and started again: finished jobs are found.

    uniform     SFT in which every position weighs the same
    weighted    SFT with the weights of equation 5 of arXiv 2606.14528
    dpo         the weighted model after preference optimisation, equations 6 and 7
    shuffled    like weighted, on rows whose assistant comes at times that have nothing to do with the user (control)
"""

from __future__ import annotations

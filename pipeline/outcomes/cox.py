"""Cox's proportional hazards with a ridge penalty.

Written here since no library that has it fits: lifelines asks for a pandas below 3, scikit-survival is under the GPL,
torchsurv compiles for half a minute at its first import. scikit-survival's `CoxPHSurvivalAnalysis(ties="breslow")`
finds the same coefficients.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def partial_likelihood(risk: Floats, time: Floats, event: Flags) -> tuple[float, Floats]:
    """Return minus the logarithm of the partial likelihood, and its gradient (n,) by the risks.

    Equal times share one set at risk (Breslow, 1974).

    Args:
        risk: (n,) log of the hazard ratio.
        time: (n,) until the event, or until which none was seen.
        event: (n,) whether it was seen.
    """
    order = np.argsort(-time, kind="stable")
    ordered = time[order]
    # The set at risk of a time ends with the last patient, in falling order, who has that time.
    last = np.searchsorted(-ordered, -ordered, side="right") - 1
    top = risk.max(initial=0.0)
    hazard = np.exp(risk[order] - top)
    at_risk = np.cumsum(hazard)[last]
    seen = event[order].astype(np.float64)
    loss = float((seen * (np.log(at_risk) + top - risk[order])).sum())
    # A patient is in the set at risk of every event at its own time or earlier.
    inverse = np.cumsum((seen / at_risk)[::-1])[::-1]
    first = np.searchsorted(-ordered, -ordered, side="left")
    gradient = np.empty_like(risk)
    gradient[order] = hazard * inverse[first] - seen
    return loss, gradient


def fit_cox(features: Floats, time: Floats, event: Flags, penalty: float) -> Floats:
    """Return the coefficients (D,) that minimise minus the log of the partial likelihood + penalty / 2 * ||w||².

    Args:
        features: (n, D).
        time: (n,).
        event: (n,).
        penalty: above 0.
    """

    def loss(weights: Floats) -> tuple[float, Floats]:
        missed, gradient = partial_likelihood(features @ weights, time, event)
        return missed + penalty / 2 * float(weights @ weights), features.T @ gradient + penalty * weights

    start = np.zeros(features.shape[1])
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x)

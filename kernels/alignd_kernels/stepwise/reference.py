"""Stepwise monotonic attention in plain loops: the specification in code.

He et al. 2019, "Robust Sequence-to-Sequence Acoustic Modeling with Stepwise Monotonic Attention for Neural TTS",
equation 8: with α[i, j] the probability that the attention is on token j in frame i, and p = σ(energy) that to stay,

    α[i, j] = α[i−1, j] · p[i, j] + α[i−1, j−1] · (1 − p[i, j−1])

Arrays here are [tokens, frames], transposed. Energies of tokens that no mass can have reached are not looked at.
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
End = Literal["keep", "leak"]
Form = Literal["paper", "sma"]


def expectation(
    energies: FloatArray, end: End = "keep", form: Form = "paper", initial: FloatArray | None = None
) -> FloatArray:
    """The probability of each token in each frame.

    Args:
        energies: [S, T] of S tokens and T frames.
        end: "keep" lets the last token keep its mass (p = 1 there); "leak" lets it lose 1 − p in each frame.
        form: "paper" starts in frame 0, whose energies go unused; "sma" is that of a published implementation: the
            start lies before frame 0, and the energies are first put through a softmax over the frames.
        initial: [S], what the attention starts as, instead of all on token 0.

    Returns:
        float64 [S, T].
    """
    return _expectation(_entering(energies, form), end, form, initial)


def gradient(
    energies: FloatArray,
    upstream: FloatArray,
    end: End = "keep",
    form: Form = "paper",
    initial: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Derivative of sum(upstream · expectation), by the energies, [S, T], and by `initial`, [S].

    With G[i, j] the derivative by α[i, j], later frames included, α[i−1, j] counts p[i, j] times in α[i, j] and
    1 − p[i, j] times in α[i, j+1]; so

        G[i−1, j] = upstream[i−1, j] + p[i, j] · G[i, j] + (1 − p[i, j]) · G[i, j+1]

    and p[i, j] itself counts α[i−1, j] · (G[i, j] − G[i, j+1]), where G[i, S] = 0: mass that has leaked is in no cell.
    """
    S, T = energies.shape
    entering = _entering(energies, form)
    alpha = _expectation(entering, end, form, initial)
    found, G = np.zeros((S, T)), np.zeros(S + 1)
    for i in range(T - 1, -1, -1):
        G[:S] += upstream[:, i]
        if i == 0 and form == "paper":
            break
        before = alpha[:, i - 1] if i > 0 else _start(S, initial)
        earlier = np.zeros(S + 1)
        for j in range(_reached(i, S, form, initial)):
            if j == S - 1 and end == "keep":
                earlier[j] = G[j]
                continue
            p, q = stay_or_move(float(entering[j, i]))
            found[j, i] = before[j] * (G[j] - G[j + 1]) * p * q
            earlier[j] = p * G[j] + q * G[j + 1]
        G = earlier
    if form == "sma":
        for j in range(S):
            found[j] = entering[j] * (found[j] - np.dot(entering[j], found[j]))
    return found, G[:S]


def hard(energies: FloatArray) -> npt.NDArray[np.int32]:
    """The token of each frame where every choice is made: stay if p > 0.5, an energy above 0, else move on.

    Args:
        energies: [S, T].

    Returns:
        int32 [T]; it begins in token 0 and stays in the last one.

    Raises:
        ValueError: an energy that decides is NaN.
    """
    S, T = energies.shape
    path = np.zeros(T, np.int32)
    for i in range(1, T):
        at = path[i - 1]
        if at < S - 1 and np.isnan(energies[at, i]):
            raise ValueError(f"energies[{at}, {i}] is NaN")
        path[i] = at if at == S - 1 or energies[at, i] > 0 else at + 1
    return path


def focus_rate(attention: FloatArray) -> FloatArray:
    """How much of a head's attention is on one token at a time: the mean over frames of the maximum over tokens.

    Ren et al. 2019, "FastSpeech: Fast, Robust and Controllable Text to Speech", section 3.3.

    Args:
        attention: [H, S, T].

    Returns:
        float64 [H]; 0 where there are no tokens or no frames.
    """
    H, S, T = attention.shape
    rates = np.zeros(H)
    if S == 0:
        return rates
    for h in range(H):
        for i in range(T):
            rates[h] += np.max(attention[h, :, i]) / T
    return rates


def stay_or_move(energy: float) -> tuple[float, float]:
    """σ(energy) and σ(−energy), each to full precision."""
    z = math.exp(-abs(energy))
    large, small = 1 / (1 + z), z / (1 + z)
    return (large, small) if energy > 0 else (small, large)


def _entering(energies: FloatArray, form: Form) -> FloatArray:
    """What goes through the sigmoid."""
    if form == "paper" or energies.size == 0:
        return energies.astype(np.float64)
    weights: FloatArray = np.exp(energies.astype(np.float64) - energies.max(1, keepdims=True))
    found: FloatArray = weights / weights.sum(1, keepdims=True)
    return found


def _start(S: int, initial: FloatArray | None) -> FloatArray:
    return np.eye(1, S)[0] if initial is None else initial.astype(np.float64)


def _reached(i: int, S: int, form: Form, initial: FloatArray | None) -> int:
    """How many tokens can have mass before frame i."""
    return S if initial is not None else min(S, i + (form == "sma"))


def _expectation(entering: FloatArray, end: End, form: Form, initial: FloatArray | None) -> FloatArray:
    S, T = entering.shape
    alpha = np.zeros((S, T))
    before = _start(S, initial)
    for i in range(T):
        if i == 0 and form == "paper":
            alpha[:, 0] = before
            continue
        for j in range(_reached(i, S, form, initial)):
            keeps = j == S - 1 and end == "keep"
            p, q = (1.0, 0.0) if keeps else stay_or_move(float(entering[j, i]))
            alpha[j, i] += before[j] * p
            if j + 1 < S:
                alpha[j + 1, i] += before[j] * q
        before = alpha[:, i]
    return alpha

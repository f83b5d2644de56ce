"""Stepwise monotonic attention: in each frame the attention stays on its token or moves to the next one, by chance.

He et al. 2019, "Robust Sequence-to-Sequence Acoustic Modeling with Stepwise Monotonic Attention for Neural TTS".
"""

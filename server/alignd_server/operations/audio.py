"""AlignAudio (draft)."""


def audio_missing():
    return "x"


class AudioPipeline:
    def __init__(self, engine): ...

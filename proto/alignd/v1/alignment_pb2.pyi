from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_BFLOAT16: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT64: _ClassVar[DataType]

class ItemCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ITEM_CODE_UNSPECIFIED: _ClassVar[ItemCode]
    ITEM_CODE_OK: _ClassVar[ItemCode]
    ITEM_CODE_EMPTY: _ClassVar[ItemCode]
    ITEM_CODE_TOO_FEW_FRAMES: _ClassVar[ItemCode]
    ITEM_CODE_NOT_FINITE: _ClassVar[ItemCode]
    ITEM_CODE_NO_FINITE_PATH: _ClassVar[ItemCode]
    ITEM_CODE_TARGET_OUT_OF_RANGE: _ClassVar[ItemCode]
    ITEM_CODE_TARGET_IS_BLANK: _ClassVar[ItemCode]
    ITEM_CODE_ADJACENT_STARS: _ClassVar[ItemCode]
    ITEM_CODE_OUT_OF_MEMORY: _ClassVar[ItemCode]
    ITEM_CODE_INTERNAL: _ClassVar[ItemCode]
    ITEM_CODE_AUDIO_UNREADABLE: _ClassVar[ItemCode]
    ITEM_CODE_AUDIO_SILENT: _ClassVar[ItemCode]
    ITEM_CODE_TEXT_UNSUPPORTED: _ClassVar[ItemCode]
    ITEM_CODE_AUDIO_TOO_LONG: _ClassVar[ItemCode]
    ITEM_CODE_MALFORMED: _ClassVar[ItemCode]
    ITEM_CODE_TOO_LARGE: _ClassVar[ItemCode]

class TransducerTopology(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRANSDUCER_TOPOLOGY_UNSPECIFIED: _ClassVar[TransducerTopology]
    TRANSDUCER_TOPOLOGY_STANDARD: _ClassVar[TransducerTopology]
    TRANSDUCER_TOPOLOGY_MODIFIED: _ClassVar[TransducerTopology]

class AttentionMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ATTENTION_MODE_UNSPECIFIED: _ClassVar[AttentionMode]
    ATTENTION_MODE_MAS: _ClassVar[AttentionMode]
    ATTENTION_MODE_DTW: _ClassVar[AttentionMode]
    ATTENTION_MODE_STEPWISE: _ClassVar[AttentionMode]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_BFLOAT16: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT64: DataType
ITEM_CODE_UNSPECIFIED: ItemCode
ITEM_CODE_OK: ItemCode
ITEM_CODE_EMPTY: ItemCode
ITEM_CODE_TOO_FEW_FRAMES: ItemCode
ITEM_CODE_NOT_FINITE: ItemCode
ITEM_CODE_NO_FINITE_PATH: ItemCode
ITEM_CODE_TARGET_OUT_OF_RANGE: ItemCode
ITEM_CODE_TARGET_IS_BLANK: ItemCode
ITEM_CODE_ADJACENT_STARS: ItemCode
ITEM_CODE_OUT_OF_MEMORY: ItemCode
ITEM_CODE_INTERNAL: ItemCode
ITEM_CODE_AUDIO_UNREADABLE: ItemCode
ITEM_CODE_AUDIO_SILENT: ItemCode
ITEM_CODE_TEXT_UNSUPPORTED: ItemCode
ITEM_CODE_AUDIO_TOO_LONG: ItemCode
ITEM_CODE_MALFORMED: ItemCode
ITEM_CODE_TOO_LARGE: ItemCode
TRANSDUCER_TOPOLOGY_UNSPECIFIED: TransducerTopology
TRANSDUCER_TOPOLOGY_STANDARD: TransducerTopology
TRANSDUCER_TOPOLOGY_MODIFIED: TransducerTopology
ATTENTION_MODE_UNSPECIFIED: AttentionMode
ATTENTION_MODE_MAS: AttentionMode
ATTENTION_MODE_DTW: AttentionMode
ATTENTION_MODE_STEPWISE: AttentionMode

class ItemStatus(_message.Message):
    __slots__ = ("code", "field", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: ItemCode
    field: str
    message: str
    def __init__(self, code: _Optional[_Union[ItemCode, str]] = ..., field: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("queue_ns", "kernel_ns", "total_ns")
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    KERNEL_NS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NS_FIELD_NUMBER: _ClassVar[int]
    queue_ns: int
    kernel_ns: int
    total_ns: int
    def __init__(self, queue_ns: _Optional[int] = ..., kernel_ns: _Optional[int] = ..., total_ns: _Optional[int] = ...) -> None: ...

class MaximumPathRequest(_message.Message):
    __slots__ = ("tokens", "frames", "data_type", "values", "return_paths")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    RETURN_PATHS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    frames: _containers.RepeatedScalarFieldContainer[int]
    data_type: DataType
    values: bytes
    return_paths: bool
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., frames: _Optional[_Iterable[int]] = ..., data_type: _Optional[_Union[DataType, str]] = ..., values: _Optional[bytes] = ..., return_paths: bool = ...) -> None: ...

class MaximumPathResponse(_message.Message):
    __slots__ = ("statuses", "durations", "paths", "scores", "timing")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    DURATIONS_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    durations: bytes
    paths: bytes
    scores: _containers.RepeatedScalarFieldContainer[float]
    timing: Timing
    def __init__(self, statuses: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., durations: _Optional[bytes] = ..., paths: _Optional[bytes] = ..., scores: _Optional[_Iterable[float]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class ForcedAlignRequest(_message.Message):
    __slots__ = ("frames", "target_lengths", "vocabulary_size", "data_type", "log_probs", "targets", "blank", "star_score", "star_max")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    TARGET_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    BLANK_FIELD_NUMBER: _ClassVar[int]
    STAR_SCORE_FIELD_NUMBER: _ClassVar[int]
    STAR_MAX_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedScalarFieldContainer[int]
    target_lengths: _containers.RepeatedScalarFieldContainer[int]
    vocabulary_size: int
    data_type: DataType
    log_probs: bytes
    targets: bytes
    blank: int
    star_score: float
    star_max: bool
    def __init__(self, frames: _Optional[_Iterable[int]] = ..., target_lengths: _Optional[_Iterable[int]] = ..., vocabulary_size: _Optional[int] = ..., data_type: _Optional[_Union[DataType, str]] = ..., log_probs: _Optional[bytes] = ..., targets: _Optional[bytes] = ..., blank: _Optional[int] = ..., star_score: _Optional[float] = ..., star_max: bool = ...) -> None: ...

class ForcedAlignResponse(_message.Message):
    __slots__ = ("statuses", "durations", "paths", "frame_scores", "scores", "timing")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    DURATIONS_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    FRAME_SCORES_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    durations: bytes
    paths: bytes
    frame_scores: bytes
    scores: _containers.RepeatedScalarFieldContainer[float]
    timing: Timing
    def __init__(self, statuses: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., durations: _Optional[bytes] = ..., paths: _Optional[bytes] = ..., frame_scores: _Optional[bytes] = ..., scores: _Optional[_Iterable[float]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class CtcPosteriorsRequest(_message.Message):
    __slots__ = ("frames", "target_lengths", "vocabulary_size", "data_type", "log_probs", "targets", "blank", "star_score", "star_max")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    TARGET_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    BLANK_FIELD_NUMBER: _ClassVar[int]
    STAR_SCORE_FIELD_NUMBER: _ClassVar[int]
    STAR_MAX_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedScalarFieldContainer[int]
    target_lengths: _containers.RepeatedScalarFieldContainer[int]
    vocabulary_size: int
    data_type: DataType
    log_probs: bytes
    targets: bytes
    blank: int
    star_score: float
    star_max: bool
    def __init__(self, frames: _Optional[_Iterable[int]] = ..., target_lengths: _Optional[_Iterable[int]] = ..., vocabulary_size: _Optional[int] = ..., data_type: _Optional[_Union[DataType, str]] = ..., log_probs: _Optional[bytes] = ..., targets: _Optional[bytes] = ..., blank: _Optional[int] = ..., star_score: _Optional[float] = ..., star_max: bool = ...) -> None: ...

class CtcPosteriorsResponse(_message.Message):
    __slots__ = ("statuses", "posteriors", "scores", "timing")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    POSTERIORS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    posteriors: bytes
    scores: _containers.RepeatedScalarFieldContainer[float]
    timing: Timing
    def __init__(self, statuses: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., posteriors: _Optional[bytes] = ..., scores: _Optional[_Iterable[float]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class TransducerAlignRequest(_message.Message):
    __slots__ = ("frames", "labels", "data_type", "arcs", "topology")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    ARCS_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedScalarFieldContainer[int]
    labels: _containers.RepeatedScalarFieldContainer[int]
    data_type: DataType
    arcs: bytes
    topology: TransducerTopology
    def __init__(self, frames: _Optional[_Iterable[int]] = ..., labels: _Optional[_Iterable[int]] = ..., data_type: _Optional[_Union[DataType, str]] = ..., arcs: _Optional[bytes] = ..., topology: _Optional[_Union[TransducerTopology, str]] = ...) -> None: ...

class TransducerAlignResponse(_message.Message):
    __slots__ = ("statuses", "emission_frames", "scores", "timing")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    EMISSION_FRAMES_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    emission_frames: bytes
    scores: _containers.RepeatedScalarFieldContainer[float]
    timing: Timing
    def __init__(self, statuses: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., emission_frames: _Optional[bytes] = ..., scores: _Optional[_Iterable[float]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class TransducerPosteriorsRequest(_message.Message):
    __slots__ = ("frames", "labels", "data_type", "arcs", "topology")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    ARCS_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedScalarFieldContainer[int]
    labels: _containers.RepeatedScalarFieldContainer[int]
    data_type: DataType
    arcs: bytes
    topology: TransducerTopology
    def __init__(self, frames: _Optional[_Iterable[int]] = ..., labels: _Optional[_Iterable[int]] = ..., data_type: _Optional[_Union[DataType, str]] = ..., arcs: _Optional[bytes] = ..., topology: _Optional[_Union[TransducerTopology, str]] = ...) -> None: ...

class TransducerPosteriorsResponse(_message.Message):
    __slots__ = ("statuses", "posteriors", "scores", "timing")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    POSTERIORS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    posteriors: bytes
    scores: _containers.RepeatedScalarFieldContainer[float]
    timing: Timing
    def __init__(self, statuses: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., posteriors: _Optional[bytes] = ..., scores: _Optional[_Iterable[float]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class AlignAttentionRequest(_message.Message):
    __slots__ = ("heads", "tokens", "frames", "data_type", "attention", "mode", "log")
    HEADS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    heads: _containers.RepeatedScalarFieldContainer[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    frames: _containers.RepeatedScalarFieldContainer[int]
    data_type: DataType
    attention: bytes
    mode: AttentionMode
    log: bool
    def __init__(self, heads: _Optional[_Iterable[int]] = ..., tokens: _Optional[_Iterable[int]] = ..., frames: _Optional[_Iterable[int]] = ..., data_type: _Optional[_Union[DataType, str]] = ..., attention: _Optional[bytes] = ..., mode: _Optional[_Union[AttentionMode, str]] = ..., log: bool = ...) -> None: ...

class AlignAttentionResponse(_message.Message):
    __slots__ = ("statuses", "heads", "focus_rates", "starts", "ends", "scores", "timing")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    FOCUS_RATES_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    heads: bytes
    focus_rates: bytes
    starts: bytes
    ends: bytes
    scores: _containers.RepeatedScalarFieldContainer[float]
    timing: Timing
    def __init__(self, statuses: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., heads: _Optional[bytes] = ..., focus_rates: _Optional[bytes] = ..., starts: _Optional[bytes] = ..., ends: _Optional[bytes] = ..., scores: _Optional[_Iterable[float]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class MaximumPathFromLatentsRequest(_message.Message):
    __slots__ = ("tokens", "frames", "channels", "data_type", "latents", "means", "log_sigmas")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    MEANS_FIELD_NUMBER: _ClassVar[int]
    LOG_SIGMAS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    frames: _containers.RepeatedScalarFieldContainer[int]
    channels: int
    data_type: DataType
    latents: bytes
    means: bytes
    log_sigmas: bytes
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., frames: _Optional[_Iterable[int]] = ..., channels: _Optional[int] = ..., data_type: _Optional[_Union[DataType, str]] = ..., latents: _Optional[bytes] = ..., means: _Optional[bytes] = ..., log_sigmas: _Optional[bytes] = ...) -> None: ...

class MaximumPathFromLatentsResponse(_message.Message):
    __slots__ = ("statuses", "durations", "scores", "timing")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    DURATIONS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    durations: bytes
    scores: _containers.RepeatedScalarFieldContainer[float]
    timing: Timing
    def __init__(self, statuses: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., durations: _Optional[bytes] = ..., scores: _Optional[_Iterable[float]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class MasPosteriorsRequest(_message.Message):
    __slots__ = ("tokens", "frames", "data_type", "values")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    frames: _containers.RepeatedScalarFieldContainer[int]
    data_type: DataType
    values: bytes
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., frames: _Optional[_Iterable[int]] = ..., data_type: _Optional[_Union[DataType, str]] = ..., values: _Optional[bytes] = ...) -> None: ...

class MasPosteriorsResponse(_message.Message):
    __slots__ = ("statuses", "posteriors", "scores", "timing")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    POSTERIORS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedCompositeFieldContainer[ItemStatus]
    posteriors: bytes
    scores: _containers.RepeatedScalarFieldContainer[float]
    timing: Timing
    def __init__(self, statuses: _Optional[_Iterable[_Union[ItemStatus, _Mapping]]] = ..., posteriors: _Optional[bytes] = ..., scores: _Optional[_Iterable[float]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class AlignAudioRequest(_message.Message):
    __slots__ = ("audio", "transcript", "model")
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    audio: bytes
    transcript: str
    model: str
    def __init__(self, audio: _Optional[bytes] = ..., transcript: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class AlignedSymbol(_message.Message):
    __slots__ = ("symbol", "start_seconds", "duration_seconds", "score", "confidence")
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    START_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    symbol: str
    start_seconds: float
    duration_seconds: float
    score: float
    confidence: float
    def __init__(self, symbol: _Optional[str] = ..., start_seconds: _Optional[float] = ..., duration_seconds: _Optional[float] = ..., score: _Optional[float] = ..., confidence: _Optional[float] = ...) -> None: ...

class AlignAudioResponse(_message.Message):
    __slots__ = ("status", "words", "tokens", "score", "audio_seconds", "model", "timing")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    AUDIO_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    status: ItemStatus
    words: _containers.RepeatedCompositeFieldContainer[AlignedSymbol]
    tokens: _containers.RepeatedCompositeFieldContainer[AlignedSymbol]
    score: float
    audio_seconds: float
    model: str
    timing: Timing
    def __init__(self, status: _Optional[_Union[ItemStatus, _Mapping]] = ..., words: _Optional[_Iterable[_Union[AlignedSymbol, _Mapping]]] = ..., tokens: _Optional[_Iterable[_Union[AlignedSymbol, _Mapping]]] = ..., score: _Optional[float] = ..., audio_seconds: _Optional[float] = ..., model: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "devices", "operations", "models", "limits")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    version: str
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    operations: _containers.RepeatedScalarFieldContainer[str]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    limits: Limits
    def __init__(self, version: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., operations: _Optional[_Iterable[str]] = ..., models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("id", "name", "backend")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    backend: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., backend: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "language", "sample_rate", "frame_seconds", "license")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    FRAME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LICENSE_FIELD_NUMBER: _ClassVar[int]
    name: str
    language: str
    sample_rate: int
    frame_seconds: float
    license: str
    def __init__(self, name: _Optional[str] = ..., language: _Optional[str] = ..., sample_rate: _Optional[int] = ..., frame_seconds: _Optional[float] = ..., license: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_message_bytes", "max_queue_items", "max_queue_bytes", "max_batch_cells")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_CELLS_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_queue_items: int
    max_queue_bytes: int
    max_batch_cells: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_queue_items: _Optional[int] = ..., max_queue_bytes: _Optional[int] = ..., max_batch_cells: _Optional[int] = ...) -> None: ...

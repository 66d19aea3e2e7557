from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    PHASE_QUEUED: _ClassVar[Phase]
    PHASE_PREPARING: _ClassVar[Phase]
    PHASE_PROVING: _ClassVar[Phase]
    PHASE_CLAIMING: _ClassVar[Phase]
    PHASE_STARTING: _ClassVar[Phase]
    PHASE_READY: _ClassVar[Phase]
    PHASE_STOPPING: _ClassVar[Phase]
    PHASE_GONE: _ClassVar[Phase]

class FailureReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_REASON_UNSPECIFIED: _ClassVar[FailureReason]
    FAILURE_REASON_IMAGE_MISSING: _ClassVar[FailureReason]
    FAILURE_REASON_RUNTIME_MISSING: _ClassVar[FailureReason]
    FAILURE_REASON_ENGINE_UNAVAILABLE: _ClassVar[FailureReason]
    FAILURE_REASON_HOME: _ClassVar[FailureReason]
    FAILURE_REASON_NETWORK: _ClassVar[FailureReason]
    FAILURE_REASON_CAPACITY: _ClassVar[FailureReason]
    FAILURE_REASON_PROOF: _ClassVar[FailureReason]
    FAILURE_REASON_SERVER_EXITED: _ClassVar[FailureReason]
    FAILURE_REASON_TIMEOUT: _ClassVar[FailureReason]
    FAILURE_REASON_CANCELLED: _ClassVar[FailureReason]
    FAILURE_REASON_INTERNAL: _ClassVar[FailureReason]

class ExitCause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXIT_CAUSE_UNSPECIFIED: _ClassVar[ExitCause]
    EXIT_CAUSE_EXITED: _ClassVar[ExitCause]
    EXIT_CAUSE_SIGNALED: _ClassVar[ExitCause]
    EXIT_CAUSE_OUT_OF_MEMORY: _ClassVar[ExitCause]
    EXIT_CAUSE_STOPPED: _ClassVar[ExitCause]
    EXIT_CAUSE_LOST: _ClassVar[ExitCause]
    EXIT_CAUSE_FAILED_START: _ClassVar[ExitCause]
    EXIT_CAUSE_TOO_MANY_PROCESSES: _ClassVar[ExitCause]
    EXIT_CAUSE_KILLED_BY_ADMINISTRATOR: _ClassVar[ExitCause]
    EXIT_CAUSE_DRAINED: _ClassVar[ExitCause]
    EXIT_CAUSE_REPLACED: _ClassVar[ExitCause]

class HomeFate(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HOME_FATE_UNSPECIFIED: _ClassVar[HomeFate]
    HOME_FATE_ABSENT: _ClassVar[HomeFate]
    HOME_FATE_KEPT: _ClassVar[HomeFate]
    HOME_FATE_ARCHIVED: _ClassVar[HomeFate]
    HOME_FATE_TO_BE_PURGED: _ClassVar[HomeFate]

class ImageFindingLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_FINDING_LEVEL_UNSPECIFIED: _ClassVar[ImageFindingLevel]
    IMAGE_FINDING_LEVEL_FACT: _ClassVar[ImageFindingLevel]
    IMAGE_FINDING_LEVEL_ADVICE: _ClassVar[ImageFindingLevel]
    IMAGE_FINDING_LEVEL_PROBLEM: _ClassVar[ImageFindingLevel]

class HomeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HOME_STATE_UNSPECIFIED: _ClassVar[HomeState]
    HOME_STATE_OWNED: _ClassVar[HomeState]
    HOME_STATE_BEING_SET_ASIDE: _ClassVar[HomeState]
    HOME_STATE_SET_ASIDE: _ClassVar[HomeState]
    HOME_STATE_BEING_PURGED: _ClassVar[HomeState]
    HOME_STATE_BEING_RESTORED: _ClassVar[HomeState]
PHASE_UNSPECIFIED: Phase
PHASE_QUEUED: Phase
PHASE_PREPARING: Phase
PHASE_PROVING: Phase
PHASE_CLAIMING: Phase
PHASE_STARTING: Phase
PHASE_READY: Phase
PHASE_STOPPING: Phase
PHASE_GONE: Phase
FAILURE_REASON_UNSPECIFIED: FailureReason
FAILURE_REASON_IMAGE_MISSING: FailureReason
FAILURE_REASON_RUNTIME_MISSING: FailureReason
FAILURE_REASON_ENGINE_UNAVAILABLE: FailureReason
FAILURE_REASON_HOME: FailureReason
FAILURE_REASON_NETWORK: FailureReason
FAILURE_REASON_CAPACITY: FailureReason
FAILURE_REASON_PROOF: FailureReason
FAILURE_REASON_SERVER_EXITED: FailureReason
FAILURE_REASON_TIMEOUT: FailureReason
FAILURE_REASON_CANCELLED: FailureReason
FAILURE_REASON_INTERNAL: FailureReason
EXIT_CAUSE_UNSPECIFIED: ExitCause
EXIT_CAUSE_EXITED: ExitCause
EXIT_CAUSE_SIGNALED: ExitCause
EXIT_CAUSE_OUT_OF_MEMORY: ExitCause
EXIT_CAUSE_STOPPED: ExitCause
EXIT_CAUSE_LOST: ExitCause
EXIT_CAUSE_FAILED_START: ExitCause
EXIT_CAUSE_TOO_MANY_PROCESSES: ExitCause
EXIT_CAUSE_KILLED_BY_ADMINISTRATOR: ExitCause
EXIT_CAUSE_DRAINED: ExitCause
EXIT_CAUSE_REPLACED: ExitCause
HOME_FATE_UNSPECIFIED: HomeFate
HOME_FATE_ABSENT: HomeFate
HOME_FATE_KEPT: HomeFate
HOME_FATE_ARCHIVED: HomeFate
HOME_FATE_TO_BE_PURGED: HomeFate
IMAGE_FINDING_LEVEL_UNSPECIFIED: ImageFindingLevel
IMAGE_FINDING_LEVEL_FACT: ImageFindingLevel
IMAGE_FINDING_LEVEL_ADVICE: ImageFindingLevel
IMAGE_FINDING_LEVEL_PROBLEM: ImageFindingLevel
HOME_STATE_UNSPECIFIED: HomeState
HOME_STATE_OWNED: HomeState
HOME_STATE_BEING_SET_ASIDE: HomeState
HOME_STATE_SET_ASIDE: HomeState
HOME_STATE_BEING_PURGED: HomeState
HOME_STATE_BEING_RESTORED: HomeState

class ServerKey(_message.Message):
    __slots__ = ("hub", "user", "server")
    HUB_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    hub: str
    user: str
    server: str
    def __init__(self, hub: _Optional[str] = ..., user: _Optional[str] = ..., server: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("memory_bytes", "cpu_millis")
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    CPU_MILLIS_FIELD_NUMBER: _ClassVar[int]
    memory_bytes: int
    cpu_millis: int
    def __init__(self, memory_bytes: _Optional[int] = ..., cpu_millis: _Optional[int] = ...) -> None: ...

class StartRequest(_message.Message):
    __slots__ = ("request_id", "key", "profile", "runtime", "image", "limits", "arguments", "environment", "secret_environment", "ready_path", "disable_user_config")
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SecretEnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    SECRET_ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    READY_PATH_FIELD_NUMBER: _ClassVar[int]
    DISABLE_USER_CONFIG_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    key: ServerKey
    profile: str
    runtime: str
    image: str
    limits: Limits
    arguments: _containers.RepeatedScalarFieldContainer[str]
    environment: _containers.ScalarMap[str, str]
    secret_environment: _containers.ScalarMap[str, str]
    ready_path: str
    disable_user_config: bool
    def __init__(self, request_id: _Optional[str] = ..., key: _Optional[_Union[ServerKey, _Mapping]] = ..., profile: _Optional[str] = ..., runtime: _Optional[str] = ..., image: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., arguments: _Optional[_Iterable[str]] = ..., environment: _Optional[_Mapping[str, str]] = ..., secret_environment: _Optional[_Mapping[str, str]] = ..., ready_path: _Optional[str] = ..., disable_user_config: _Optional[bool] = ...) -> None: ...

class StartEvent(_message.Message):
    __slots__ = ("progress", "ready", "failed")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    ready: Ready
    failed: Failed
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("phase", "percent", "message", "queue_place")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_PLACE_FIELD_NUMBER: _ClassVar[int]
    phase: Phase
    percent: int
    message: str
    queue_place: int
    def __init__(self, phase: _Optional[_Union[Phase, str]] = ..., percent: _Optional[int] = ..., message: _Optional[str] = ..., queue_place: _Optional[int] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("sandbox_id", "address", "port", "generation")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    address: str
    port: int
    generation: int
    def __init__(self, sandbox_id: _Optional[str] = ..., address: _Optional[str] = ..., port: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("reason", "message", "hint", "log_tail")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    LOG_TAIL_FIELD_NUMBER: _ClassVar[int]
    reason: FailureReason
    message: str
    hint: str
    log_tail: str
    def __init__(self, reason: _Optional[_Union[FailureReason, str]] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ..., log_tail: _Optional[str] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("key", "grace_ms", "generation")
    KEY_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    key: ServerKey
    grace_ms: int
    generation: int
    def __init__(self, key: _Optional[_Union[ServerKey, _Mapping]] = ..., grace_ms: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class StopResponse(_message.Message):
    __slots__ = ("stopped",)
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    stopped: bool
    def __init__(self, stopped: _Optional[bool] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: ServerKey
    def __init__(self, key: _Optional[_Union[ServerKey, _Mapping]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("hub",)
    HUB_FIELD_NUMBER: _ClassVar[int]
    hub: str
    def __init__(self, hub: _Optional[str] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("sandboxes",)
    SANDBOXES_FIELD_NUMBER: _ClassVar[int]
    sandboxes: _containers.RepeatedCompositeFieldContainer[Sandbox]
    def __init__(self, sandboxes: _Optional[_Iterable[_Union[Sandbox, _Mapping]]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("hub", "resume_token")
    HUB_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    hub: str
    resume_token: str
    def __init__(self, hub: _Optional[str] = ..., resume_token: _Optional[str] = ...) -> None: ...

class WatchEvent(_message.Message):
    __slots__ = ("sandbox", "synced", "resumed", "resume_token")
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sandbox: Sandbox
    synced: Synced
    resumed: Resumed
    resume_token: str
    def __init__(self, sandbox: _Optional[_Union[Sandbox, _Mapping]] = ..., synced: _Optional[_Union[Synced, _Mapping]] = ..., resumed: _Optional[_Union[Resumed, _Mapping]] = ..., resume_token: _Optional[str] = ...) -> None: ...

class Synced(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Resumed(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Sandbox(_message.Message):
    __slots__ = ("sandbox_id", "key", "generation", "phase", "profile", "runtime", "image_digest", "address", "port", "started_at", "disk_uid", "disk_gid", "run_range_first", "exit", "steps")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    DISK_UID_FIELD_NUMBER: _ClassVar[int]
    DISK_GID_FIELD_NUMBER: _ClassVar[int]
    RUN_RANGE_FIRST_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    key: ServerKey
    generation: int
    phase: Phase
    profile: str
    runtime: str
    image_digest: str
    address: str
    port: int
    started_at: int
    disk_uid: int
    disk_gid: int
    run_range_first: int
    exit: Exit
    steps: _containers.RepeatedCompositeFieldContainer[StepTime]
    def __init__(self, sandbox_id: _Optional[str] = ..., key: _Optional[_Union[ServerKey, _Mapping]] = ..., generation: _Optional[int] = ..., phase: _Optional[_Union[Phase, str]] = ..., profile: _Optional[str] = ..., runtime: _Optional[str] = ..., image_digest: _Optional[str] = ..., address: _Optional[str] = ..., port: _Optional[int] = ..., started_at: _Optional[int] = ..., disk_uid: _Optional[int] = ..., disk_gid: _Optional[int] = ..., run_range_first: _Optional[int] = ..., exit: _Optional[_Union[Exit, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[StepTime, _Mapping]]] = ...) -> None: ...

class StepTime(_message.Message):
    __slots__ = ("step", "microseconds")
    STEP_FIELD_NUMBER: _ClassVar[int]
    MICROSECONDS_FIELD_NUMBER: _ClassVar[int]
    step: str
    microseconds: int
    def __init__(self, step: _Optional[str] = ..., microseconds: _Optional[int] = ...) -> None: ...

class Exit(_message.Message):
    __slots__ = ("cause", "code", "signal", "message", "log_tail")
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LOG_TAIL_FIELD_NUMBER: _ClassVar[int]
    cause: ExitCause
    code: int
    signal: int
    message: str
    log_tail: str
    def __init__(self, cause: _Optional[_Union[ExitCause, str]] = ..., code: _Optional[int] = ..., signal: _Optional[int] = ..., message: _Optional[str] = ..., log_tail: _Optional[str] = ...) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("key", "tail_bytes", "follow")
    KEY_FIELD_NUMBER: _ClassVar[int]
    TAIL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    key: ServerKey
    tail_bytes: int
    follow: bool
    def __init__(self, key: _Optional[_Union[ServerKey, _Mapping]] = ..., tail_bytes: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...

class LogChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class OffersRequest(_message.Message):
    __slots__ = ("user",)
    USER_FIELD_NUMBER: _ClassVar[int]
    user: str
    def __init__(self, user: _Optional[str] = ...) -> None: ...

class OffersResponse(_message.Message):
    __slots__ = ("offers",)
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    offers: _containers.RepeatedCompositeFieldContainer[Offer]
    def __init__(self, offers: _Optional[_Iterable[_Union[Offer, _Mapping]]] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("profile", "display_name", "description", "runtimes", "images", "memory_default_bytes", "memory_ceiling_bytes", "cpu_default_millis", "cpu_ceiling_millis", "runtime_hints", "runtime_descriptions", "runtime_limitations")
    class RuntimeHintsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class RuntimeDescriptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class RuntimeLimitationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: RuntimeLimitations
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[RuntimeLimitations, _Mapping]] = ...) -> None: ...
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    RUNTIMES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_DEFAULT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_CEILING_BYTES_FIELD_NUMBER: _ClassVar[int]
    CPU_DEFAULT_MILLIS_FIELD_NUMBER: _ClassVar[int]
    CPU_CEILING_MILLIS_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_HINTS_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_DESCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_LIMITATIONS_FIELD_NUMBER: _ClassVar[int]
    profile: str
    display_name: str
    description: str
    runtimes: _containers.RepeatedScalarFieldContainer[str]
    images: _containers.RepeatedScalarFieldContainer[str]
    memory_default_bytes: int
    memory_ceiling_bytes: int
    cpu_default_millis: int
    cpu_ceiling_millis: int
    runtime_hints: _containers.ScalarMap[str, str]
    runtime_descriptions: _containers.ScalarMap[str, str]
    runtime_limitations: _containers.MessageMap[str, RuntimeLimitations]
    def __init__(self, profile: _Optional[str] = ..., display_name: _Optional[str] = ..., description: _Optional[str] = ..., runtimes: _Optional[_Iterable[str]] = ..., images: _Optional[_Iterable[str]] = ..., memory_default_bytes: _Optional[int] = ..., memory_ceiling_bytes: _Optional[int] = ..., cpu_default_millis: _Optional[int] = ..., cpu_ceiling_millis: _Optional[int] = ..., runtime_hints: _Optional[_Mapping[str, str]] = ..., runtime_descriptions: _Optional[_Mapping[str, str]] = ..., runtime_limitations: _Optional[_Mapping[str, RuntimeLimitations]] = ...) -> None: ...

class RuntimeLimitations(_message.Message):
    __slots__ = ("limitations",)
    LIMITATIONS_FIELD_NUMBER: _ClassVar[int]
    limitations: _containers.RepeatedCompositeFieldContainer[RuntimeLimitation]
    def __init__(self, limitations: _Optional[_Iterable[_Union[RuntimeLimitation, _Mapping]]] = ...) -> None: ...

class RuntimeLimitation(_message.Message):
    __slots__ = ("what", "why")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    what: str
    why: str
    def __init__(self, what: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class ForgetRequest(_message.Message):
    __slots__ = ("hub", "user")
    HUB_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    hub: str
    user: str
    def __init__(self, hub: _Optional[str] = ..., user: _Optional[str] = ...) -> None: ...

class ForgetResponse(_message.Message):
    __slots__ = ("home", "purged_at")
    HOME_FIELD_NUMBER: _ClassVar[int]
    PURGED_AT_FIELD_NUMBER: _ClassVar[int]
    home: HomeFate
    purged_at: int
    def __init__(self, home: _Optional[_Union[HomeFate, str]] = ..., purged_at: _Optional[int] = ...) -> None: ...

class StopSandboxRequest(_message.Message):
    __slots__ = ("key", "grace_ms", "reason")
    KEY_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    key: ServerKey
    grace_ms: int
    reason: str
    def __init__(self, key: _Optional[_Union[ServerKey, _Mapping]] = ..., grace_ms: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class StopSandboxResponse(_message.Message):
    __slots__ = ("stopped",)
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    stopped: bool
    def __init__(self, stopped: _Optional[bool] = ...) -> None: ...

class ListPoolRequest(_message.Message):
    __slots__ = ("with_proportional_memory",)
    WITH_PROPORTIONAL_MEMORY_FIELD_NUMBER: _ClassVar[int]
    with_proportional_memory: bool
    def __init__(self, with_proportional_memory: _Optional[bool] = ...) -> None: ...

class ListPoolResponse(_message.Message):
    __slots__ = ("profiles",)
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    profiles: _containers.RepeatedCompositeFieldContainer[ProfilePool]
    def __init__(self, profiles: _Optional[_Iterable[_Union[ProfilePool, _Mapping]]] = ...) -> None: ...

class ProfilePool(_message.Message):
    __slots__ = ("profile", "minimum", "maximum", "target", "waiting", "hits", "misses", "failures", "drained", "problem")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    profile: str
    minimum: int
    maximum: int
    target: int
    waiting: _containers.RepeatedCompositeFieldContainer[WaitingSandbox]
    hits: int
    misses: int
    failures: int
    drained: bool
    problem: str
    def __init__(self, profile: _Optional[str] = ..., minimum: _Optional[int] = ..., maximum: _Optional[int] = ..., target: _Optional[int] = ..., waiting: _Optional[_Iterable[_Union[WaitingSandbox, _Mapping]]] = ..., hits: _Optional[int] = ..., misses: _Optional[int] = ..., failures: _Optional[int] = ..., drained: _Optional[bool] = ..., problem: _Optional[str] = ...) -> None: ...

class WaitingSandbox(_message.Message):
    __slots__ = ("sandbox_id", "age_ms", "memory_bytes", "cpu_ms", "proportional_memory_bytes")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    CPU_MS_FIELD_NUMBER: _ClassVar[int]
    PROPORTIONAL_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    age_ms: int
    memory_bytes: int
    cpu_ms: int
    proportional_memory_bytes: int
    def __init__(self, sandbox_id: _Optional[str] = ..., age_ms: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., cpu_ms: _Optional[int] = ..., proportional_memory_bytes: _Optional[int] = ...) -> None: ...

class DrainPoolRequest(_message.Message):
    __slots__ = ("profile",)
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    profile: str
    def __init__(self, profile: _Optional[str] = ...) -> None: ...

class DrainPoolResponse(_message.Message):
    __slots__ = ("removed",)
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    removed: int
    def __init__(self, removed: _Optional[int] = ...) -> None: ...

class RefillPoolRequest(_message.Message):
    __slots__ = ("profile",)
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    profile: str
    def __init__(self, profile: _Optional[str] = ...) -> None: ...

class RefillPoolResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("stop_servers", "grace_ms")
    STOP_SERVERS_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    stop_servers: bool
    grace_ms: int
    def __init__(self, stop_servers: _Optional[bool] = ..., grace_ms: _Optional[int] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("stopped", "running")
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    stopped: int
    running: int
    def __init__(self, stopped: _Optional[int] = ..., running: _Optional[int] = ...) -> None: ...

class UndrainRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UndrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MetricsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MetricsResponse(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class RunRequest(_message.Message):
    __slots__ = ("start", "command")
    START_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    start: StartRequest
    command: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, start: _Optional[_Union[StartRequest, _Mapping]] = ..., command: _Optional[_Iterable[str]] = ...) -> None: ...

class RunEvent(_message.Message):
    __slots__ = ("progress", "output", "exit", "failed")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    output: LogChunk
    exit: Exit
    failed: Failed
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., output: _Optional[_Union[LogChunk, _Mapping]] = ..., exit: _Optional[_Union[Exit, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ...) -> None: ...

class ImportImageRequest(_message.Message):
    __slots__ = ("path", "reference")
    PATH_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    path: str
    reference: str
    def __init__(self, path: _Optional[str] = ..., reference: _Optional[str] = ...) -> None: ...

class ImportImageEvent(_message.Message):
    __slots__ = ("progress", "image")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    progress: ImportProgress
    image: Image
    def __init__(self, progress: _Optional[_Union[ImportProgress, _Mapping]] = ..., image: _Optional[_Union[Image, _Mapping]] = ...) -> None: ...

class ImportProgress(_message.Message):
    __slots__ = ("step", "done_bytes", "total_bytes")
    STEP_FIELD_NUMBER: _ClassVar[int]
    DONE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    step: str
    done_bytes: int
    total_bytes: int
    def __init__(self, step: _Optional[str] = ..., done_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class ListImagesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListImagesResponse(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[Image]
    def __init__(self, images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("reference", "digest", "layers", "size_bytes", "sandboxes", "profiles")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SANDBOXES_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    reference: str
    digest: str
    layers: int
    size_bytes: int
    sandboxes: _containers.RepeatedScalarFieldContainer[str]
    profiles: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, reference: _Optional[str] = ..., digest: _Optional[str] = ..., layers: _Optional[int] = ..., size_bytes: _Optional[int] = ..., sandboxes: _Optional[_Iterable[str]] = ..., profiles: _Optional[_Iterable[str]] = ...) -> None: ...

class PullImageRequest(_message.Message):
    __slots__ = ("reference", "name")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    reference: str
    name: str
    def __init__(self, reference: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class RemoveImageRequest(_message.Message):
    __slots__ = ("reference", "force")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    force: bool
    def __init__(self, reference: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class RemoveImageResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PruneImagesRequest(_message.Message):
    __slots__ = ("dry_run",)
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    dry_run: bool
    def __init__(self, dry_run: _Optional[bool] = ...) -> None: ...

class PruneImagesResponse(_message.Message):
    __slots__ = ("removed",)
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    removed: _containers.RepeatedCompositeFieldContainer[Image]
    def __init__(self, removed: _Optional[_Iterable[_Union[Image, _Mapping]]] = ...) -> None: ...

class CheckImageRequest(_message.Message):
    __slots__ = ("reference",)
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    def __init__(self, reference: _Optional[str] = ...) -> None: ...

class CheckImageResponse(_message.Message):
    __slots__ = ("findings",)
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[ImageFinding]
    def __init__(self, findings: _Optional[_Iterable[_Union[ImageFinding, _Mapping]]] = ...) -> None: ...

class ImageFinding(_message.Message):
    __slots__ = ("level", "text", "hint")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    level: ImageFindingLevel
    text: str
    hint: str
    def __init__(self, level: _Optional[_Union[ImageFindingLevel, str]] = ..., text: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class StopAllRequest(_message.Message):
    __slots__ = ("grace_ms",)
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    grace_ms: int
    def __init__(self, grace_ms: _Optional[int] = ...) -> None: ...

class StopAllResponse(_message.Message):
    __slots__ = ("stopped",)
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    stopped: int
    def __init__(self, stopped: _Optional[int] = ...) -> None: ...

class ListHomesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListHomesResponse(_message.Message):
    __slots__ = ("homes",)
    HOMES_FIELD_NUMBER: _ClassVar[int]
    homes: _containers.RepeatedCompositeFieldContainer[Home]
    def __init__(self, homes: _Optional[_Iterable[_Union[Home, _Mapping]]] = ...) -> None: ...

class Home(_message.Message):
    __slots__ = ("name", "hub", "user", "disk_uid", "disk_gid", "state", "owned_since", "set_aside_at", "purged_at", "problem")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HUB_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    DISK_UID_FIELD_NUMBER: _ClassVar[int]
    DISK_GID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OWNED_SINCE_FIELD_NUMBER: _ClassVar[int]
    SET_ASIDE_AT_FIELD_NUMBER: _ClassVar[int]
    PURGED_AT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    name: str
    hub: str
    user: str
    disk_uid: int
    disk_gid: int
    state: HomeState
    owned_since: int
    set_aside_at: int
    purged_at: int
    problem: str
    def __init__(self, name: _Optional[str] = ..., hub: _Optional[str] = ..., user: _Optional[str] = ..., disk_uid: _Optional[int] = ..., disk_gid: _Optional[int] = ..., state: _Optional[_Union[HomeState, str]] = ..., owned_since: _Optional[int] = ..., set_aside_at: _Optional[int] = ..., purged_at: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class PurgeHomeRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PurgeHomeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RestoreHomeRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RestoreHomeResponse(_message.Message):
    __slots__ = ("hub", "user")
    HUB_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    hub: str
    user: str
    def __init__(self, hub: _Optional[str] = ..., user: _Optional[str] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("start",)
    START_FIELD_NUMBER: _ClassVar[int]
    start: StartRequest
    def __init__(self, start: _Optional[_Union[StartRequest, _Mapping]] = ...) -> None: ...

class ExplainedValue(_message.Message):
    __slots__ = ("name", "value", "rule")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    rule: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., rule: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("values", "plan", "runtime_spec", "firewall", "obstacles")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_SPEC_FIELD_NUMBER: _ClassVar[int]
    FIREWALL_FIELD_NUMBER: _ClassVar[int]
    OBSTACLES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[ExplainedValue]
    plan: str
    runtime_spec: str
    firewall: str
    obstacles: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[_Union[ExplainedValue, _Mapping]]] = ..., plan: _Optional[str] = ..., runtime_spec: _Optional[str] = ..., firewall: _Optional[str] = ..., obstacles: _Optional[_Iterable[str]] = ...) -> None: ...

class InspectRequest(_message.Message):
    __slots__ = ("sandbox_id", "key")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    key: ServerKey
    def __init__(self, sandbox_id: _Optional[str] = ..., key: _Optional[_Union[ServerKey, _Mapping]] = ...) -> None: ...

class InspectResponse(_message.Message):
    __slots__ = ("sandbox", "values", "plan", "runtime_spec", "firewall", "broken_walls", "counters")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_SPEC_FIELD_NUMBER: _ClassVar[int]
    FIREWALL_FIELD_NUMBER: _ClassVar[int]
    BROKEN_WALLS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    sandbox: Sandbox
    values: _containers.RepeatedCompositeFieldContainer[ExplainedValue]
    plan: str
    runtime_spec: str
    firewall: str
    broken_walls: _containers.RepeatedScalarFieldContainer[str]
    counters: _containers.ScalarMap[str, int]
    def __init__(self, sandbox: _Optional[_Union[Sandbox, _Mapping]] = ..., values: _Optional[_Iterable[_Union[ExplainedValue, _Mapping]]] = ..., plan: _Optional[str] = ..., runtime_spec: _Optional[str] = ..., firewall: _Optional[str] = ..., broken_walls: _Optional[_Iterable[str]] = ..., counters: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ReloadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadResponse(_message.Message):
    __slots__ = ("changed", "needs_restart")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    NEEDS_RESTART_FIELD_NUMBER: _ClassVar[int]
    changed: _containers.RepeatedScalarFieldContainer[str]
    needs_restart: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, changed: _Optional[_Iterable[str]] = ..., needs_restart: _Optional[_Iterable[str]] = ...) -> None: ...

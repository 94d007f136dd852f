"""A method's entry in a configuration: its options, and the settings beside them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    model_serializer,
    model_validator,
)

from fedmerge.errors import FedMergeError
from fedmerge.merging import FUSION
from fedmerge.registry import Method, Registry
from fedmerge.schema.option_paths import option_at, with_option
from fedmerge.schema.validation import LONGEST_NAME
from fedmerge.testtime import TESTTIME
from fedmerge.testtime.tuning import TEMPERATURES
from fedmerge.trackers import TRACKERS

EXTRA_OPTIONS = {FUSION.group: ("after",), TESTTIME.group: ("start", "tune", "calibrated")}
"""The settings that an entry may have besides its method's own options, by group."""
CALIBRATION = "source_temperatures"
"""The option through which a test-time method takes a temperature for each source: ``calibrated`` sets it."""


class Strict(BaseModel):
    """A frozen section of a configuration; unknown fields are errors, and infinity is written as a number."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, ser_json_inf_nan="constants"
    )


class TuneConfig(Strict):
    """An option of a test-time method that is chosen on the hospitals that trained (``testtime.tuning``).

    option: its name, or a group's and its own: ``norms.prior``. values: those to choose from; a temperature
    has defaults.
    """

    option: str
    values: tuple[Any, ...] = Field(min_length=1)


class MethodConfig(Strict):
    """A registered method with its options and the label it gets in tables.

    after: what is done to a fused network's normalisation, only where it is fused into one. Of a test-time
    method alone: start, what it begins from, the hospitals' models, or the one network of pooled training or
    of the federated rounds; tune, an option that the sources' validation images choose before evaluation;
    calibrated, whether each model's logits are divided by the temperature that its hospital fitted on its
    validation images. The label is the name by default, with ``-from-pooled`` (``-federated``), ``-tuned`` or
    ``-calibrated`` behind it where set.
    """

    method: str
    label: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=LONGEST_NAME)
    after: Literal["none", "repair", "batch-norm"] = "none"
    start: Literal["merged", "pooled", "federated"] = "merged"
    tune: TuneConfig | None = None
    calibrated: StrictBool = False
    options: dict[str, Any] = {}

    @property
    def needs_federated(self) -> bool:
        """Whether it takes the model of the federated rounds: to start from, or as the anchor of a merge."""
        return self.start == "federated" or option_at(self.options, "predict.anchor") == "federated"

    @property
    def choices(self) -> dict[str, Any]:
        """The method's options and the settings beside them: all that decides its result."""
        set_here: dict[str, Any] = {} if self.after == "none" else {"after": self.after}
        if self.start != "merged":
            set_here["start"] = self.start
        if self.tune is not None:
            set_here["tune"] = {"option": self.tune.option, "values": list(self.tune.values)}
        if self.calibrated:
            set_here["calibrated"] = True
        return self.options | set_here

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {"method": self.method, "label": self.label, **self.choices}


class TrackerConfig(Strict):
    """A tracker with its options; written as its name, or as a mapping with the key ``tracker``."""

    tracker: str
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """The tracker's name; each may be listed once."""
        return self.tracker

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        written = {"tracker": given} if isinstance(given, str) else given
        if not isinstance(written, dict) or not isinstance(written.get("tracker"), str):
            raise ValueError("write a tracker's name, or a mapping with 'tracker' and its options")
        options = {key: value for key, value in written.items() if key not in ("tracker", "options")}
        try:
            found = TRACKERS[written["tracker"]]
            return {"tracker": found.name, "options": found.check(options | written.get("options", {}))}
        except FedMergeError as error:
            raise ValueError(*error.args) from None

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {"tracker": self.tracker, **self.options}


def as_written(registry: Registry) -> BeforeValidator:
    """Take a registered method's name, or a mapping with ``method`` and its options, for a MethodConfig."""
    return BeforeValidator(lambda value: _fields(registry, value))


def read_method(registry: Registry, value: Any) -> MethodConfig:
    """Read an entry from a method's name or a mapping."""
    return MethodConfig.model_validate(_fields(registry, value))


def asked_method(registry: Registry, value: Any) -> MethodConfig:
    """Read an entry that is in no configuration. Raises FedMergeError with the sentences of its faults."""
    try:
        return read_method(registry, value)
    except ValidationError as error:
        raise FedMergeError(*(fault["msg"] for fault in error.errors())) from None
    except ValueError as error:
        raise FedMergeError(*error.args) from None


def _fields(registry: Registry, value: Any) -> Any:
    if isinstance(value, MethodConfig):
        return value
    given = {"method": value} if isinstance(value, str) else value
    if not isinstance(given, dict) or "method" not in given:
        raise ValueError("write a method's name, or a mapping with the key 'method' and its options")
    given = dict(given)
    name, label = given.pop("method"), given.pop("label", None)
    extra_options = {key: given.pop(key) for key in EXTRA_OPTIONS[registry.group] if key in given}
    try:
        registry[name].check(given)
        if extra_options.get("tune") is not None:
            extra_options["tune"] = _tune(registry[name], extra_options["tune"], given)
        if extra_options.get("calibrated"):
            _check_calibrated(registry[name], given, extra_options.get("tune"))
    except FedMergeError as error:
        raise ValueError(*error.args) from None
    start = extra_options.get("start", "merged")
    default = name if start == "merged" else f"{name}-from-{start}"
    default += "-tuned" if extra_options.get("tune") is not None else ""
    default += "-calibrated" if extra_options.get("calibrated") else ""
    return {"method": name, "label": label or default, "options": given} | extra_options


def _tune(method: Method, value: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Read the name of an option, or a mapping of an option and its values; check each value."""
    name = f"{method.kind} '{method.name}'"
    asked = {"option": value} if isinstance(value, str) else value
    if not isinstance(asked, dict) or not isinstance(option := asked.get("option"), str):
        raise FedMergeError(
            f"{name}: tune takes the name of an option, or a mapping {{option: norms.prior, values: [...]}}."
        )
    if option_at(given, option) is not None:
        raise FedMergeError(f"{name} has '{option}' both set and tuned: take one of the two out.")
    values = asked.get("values", TEMPERATURES if option.endswith("temperature") else ())
    if not isinstance(values, list | tuple) or not values:
        raise FedMergeError(
            f"{name} cannot tune '{option}' without candidates: write tune: {{option: {option}, "
            "values: [...]}."
        )
    found = [option_at(method.check(with_option({}, option, each)), option) for each in values]
    if twice := [each for i, each in enumerate(found) if each in found[:i]]:
        raise FedMergeError(f"{name}: tune lists {twice[0]!r} twice: list it once.")
    return asked | {"values": found}


def _check_calibrated(method: Method, given: dict[str, Any], tuned: Any) -> None:
    if CALIBRATION in given or (tuned is not None and tuned["option"] == CALIBRATION):
        raise FedMergeError(
            f"{method.kind} '{method.name}' has '{CALIBRATION}' set or tuned, and calibrated: true sets it "
            "too: take one of the two out."
        )

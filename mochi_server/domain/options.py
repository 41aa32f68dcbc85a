"""Ollama's options: their names, their types, and how a request's stand over a session's.

The names are those of Ollama's `api.Options` and `api.Runner`, with their types; Ollama ignores an unknown name in
silence, so it is refused here.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

Int = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Float = Annotated[float, Meta(ge=-3.0e38, le=3.0e38)]
Stop = Annotated[list[Annotated[str, Meta(max_length=1000)]], Meta(max_length=64)]

OptionValues = dict[str, Any]
"""Options by name, as they are stored and sent."""


class Options(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The options of a request; what is not given stays unset and is not sent."""

    num_keep: Int | UnsetType = UNSET
    seed: Seed | UnsetType = UNSET
    num_predict: Int | UnsetType = UNSET
    top_k: Int | UnsetType = UNSET
    top_p: Float | UnsetType = UNSET
    min_p: Float | UnsetType = UNSET
    typical_p: Float | UnsetType = UNSET
    repeat_last_n: Int | UnsetType = UNSET
    temperature: Float | UnsetType = UNSET
    repeat_penalty: Float | UnsetType = UNSET
    presence_penalty: Float | UnsetType = UNSET
    frequency_penalty: Float | UnsetType = UNSET
    stop: Stop | UnsetType = UNSET
    num_ctx: Annotated[int, Meta(ge=1, le=2**31 - 1)] | UnsetType = UNSET
    num_batch: Int | UnsetType = UNSET
    num_gpu: Int | UnsetType = UNSET
    main_gpu: Int | UnsetType = UNSET
    use_mmap: bool | UnsetType = UNSET
    num_thread: Int | UnsetType = UNSET

    def values(self) -> OptionValues:
        """What was given, by name."""
        given: OptionValues = msgspec.to_builtins(self)
        return given


OPTION_NAMES = Options.__struct_fields__

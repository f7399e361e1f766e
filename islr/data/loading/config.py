"""The options that say where clips come from and how they are read."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from islr.config import Config


class DataConfig(Config):
    """Where clips come from and how they are read."""

    manifest: tuple[str, ...] = Field(min_length=1, description="one manifest.csv, or several for a mixed corpus")
    balance: float = Field(
        0.0, ge=0, le=1, description="of several manifests in training: 0 = by their sizes, 1 = all equally often"
    )
    backend: Literal["pyav", "decord", "torchcodec"] = "pyav"
    workers: int = Field(0, ge=0, description="loader processes, one thread each; 0: none, and no deadline")
    deadline_s: float = Field(60.0, gt=0, description="seconds for one clip; then its loader process is killed")
    short_side: int | None = Field(None, ge=16, description="resize while reading; cached and fresh reads agree")
    cache: Literal["none", "memory"] = Field("none", description="memory: decode every clip once, at the start")
    max_bad: float = Field(0.01, ge=0, le=1, description="share of unreadable clips above which a run stops")

    @field_validator("manifest", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _something_to_balance(self) -> "DataConfig":
        if self.balance and len(self.manifest) == 1:
            raise ValueError("balance is for several manifests, and one is given")
        return self

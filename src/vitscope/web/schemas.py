"""What goes in and out of the web app, as its OpenAPI document says it."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["MapAsk", "MapMade", "MaskAsk", "MaskMade", "PhotoMade", "Problem", "Sample", "ViewAsk", "ViewState"]

Words = Annotated[str, Field(min_length=1, max_length=200)]
ClassNumber = Annotated[int, Field(ge=0, le=1_000_000)]
Scalar: TypeAlias = bool | Annotated[int, Field(ge=-(10**6), le=10**6)] | float | Words | None


class _In(BaseModel):
    """What a client sends; nothing else than what is named."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Problem(BaseModel):
    """Why something was refused, in one line, and what to do about it."""

    detail: str
    hint: str = ""


class PhotoMade(BaseModel):
    """An uploaded photo, decoded."""

    id: str
    name: str
    width: int
    height: int
    notes: list[str] = Field(description="What was done to the original: turned upright, first frame, ...")


class Sample(BaseModel):
    """A photo that comes with vitscope."""

    name: str
    about: str
    credit: str


class ViewAsk(_In):
    """What to explain, and how: the options of `vitscope view`."""

    photo: Words | None = Field(None, description="An uploaded photo's id; or")
    sample: Words | None = Field(None, description="a sample's name.")
    model: Words | None = Field(None, description="One of the models that the server was started with.")
    methods: Annotated[list[Words], Field(min_length=1, max_length=12)] | None = None
    target: ClassNumber | Words | None = Field(None, description="A class by number or name.")
    top: int = Field(5, ge=1, le=10, description="Predicted classes with a map of their own.")
    size: int | None = Field(None, ge=16, le=8192)
    measure: bool = Field(False, description="Deletion and insertion of each map: up to 100 forwards and more.")
    seed: int = Field(0, ge=0, le=2**31)

    @model_validator(mode="after")
    def _one_photo(self) -> "ViewAsk":
        if (self.photo is None) == (self.sample is None):
            raise ValueError("name a photo or a sample, one of them")
        return self


class ViewState(BaseModel):
    """How far a view is."""

    id: str
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    ahead: int = Field(0, description="Questions that are answered before it.")
    stage: str = ""
    done: int = 0
    total: int = 0
    detail: str = ""
    hint: str = ""


class Text(_In):
    """Words to explain the likeness to, for models that read text."""

    text: Words


class MapAsk(_In):
    """One more map of a view's photo."""

    method: Words
    target: ClassNumber | Words | Text | None = None
    params: Annotated[dict[Words, Scalar], Field(max_length=8)] = {}


class MapMade(BaseModel):
    """A map in the form that it has in a view document."""

    entry: dict[str, Any]
    arrays: dict[str, Any]


class MaskAsk(_In):
    """Patches to do without, row by row from 0."""

    patches: Annotated[list[Annotated[int, Field(ge=0, le=10**6)]], Field(max_length=20_000)]
    how: Literal["hide", "drop"] = "hide"


class MaskMade(BaseModel):
    """What the model says then."""

    predictions: list[list[str | float]] = Field(description="Label and probability, most probable first.")
    score: float | None
    whole: float | None
    forward_ms: float
    total_ms: float

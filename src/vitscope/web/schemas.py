"""Requests and responses of the web app, as its OpenAPI document describes them."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

Words = Annotated[str, Field(min_length=1, max_length=200)]
Whole = Annotated[int, Field(strict=True)]  # a number of JSON: pydantic would read the text "5_0", too
ClassNumber = Annotated[Whole, Field(ge=0, le=1_000_000)]
Scalar: TypeAlias = bool | Annotated[Whole, Field(ge=-(10**6), le=10**6)] | float | Words | None
Messages = Annotated[
    dict[str, dict[str, Any]], Field(description="Code and parameters of each sentence, by its English text.")
]


class _Request(BaseModel):
    """What a client sends: the named fields and nothing else."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Problem(BaseModel):
    """Why a request failed, in one line, and what to do about it."""

    detail: str
    hint: str = ""
    code: str = Field("", description="Identifies the problem; never changes with the words.")
    messages: Messages = {}


class PhotoResponse(BaseModel):
    """An uploaded photo, decoded."""

    id: str
    name: str
    width: int
    height: int
    notes: list[str] = Field(description="How the original was changed: rotated upright, first frame only, ...")
    messages: Messages = {}


class SampleResponse(BaseModel):
    """A sample photo."""

    name: str
    about: str = Field(description="What it shows.")
    credit: str = Field(description="Author and licence.")
    messages: Messages = {}


class ViewRequest(_Request):
    """What to explain, and how: the options of `vitscope view`."""

    photo: Words | None = Field(None, description="The id of an uploaded photo; either this or `sample`.")
    sample: Words | None = Field(None, description="The name of a sample; either this or `photo`.")
    model: Words | None = Field(None, description="One of the models that the server offers; by default its first.")
    methods: Annotated[list[Words], Field(min_length=1, max_length=12)] | None = Field(
        None, description="Names of methods; by default those that suit the model."
    )
    target: ClassNumber | Words | None = Field(None, description="A class by number or name.")
    top: Whole = Field(5, ge=1, le=10, description="How many predicted classes get a map of their own.")
    size: Whole | None = Field(None, ge=16, le=8192, description="The input size in pixels.")
    measure: bool = Field(False, description="Deletion and infidelity of each map: some 70 to 300 forwards in all.")
    seed: Whole = Field(0, ge=0, le=2**31, description="Of random numbers.")

    @model_validator(mode="after")
    def _one_photo(self) -> "ViewRequest":
        if (self.photo is None) == (self.sample is None):
            raise ValueError("give either a photo or a sample")
        return self


class ViewStatus(BaseModel):
    """The state and progress of a view."""

    id: str
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    ahead: int = Field(0, description="Jobs that run before it.")
    stage: str = Field("", description="What the model computes at the moment.")
    done: int = Field(0, description="Forwards of this stage that are done.")
    total: int = Field(0, description="Forwards of this stage; 0 where their number is not known.")
    parts: int = Field(0, description="How often there was more of its document to be fetched.")
    detail: str = Field("", description="Why it failed.")
    hint: str = ""
    code: str = ""
    messages: Messages = {}


class Text(_Request):
    """A text to explain the similarity to, for models that read text."""

    text: Words


class MapRequest(_Request):
    """A further map of a view's photo."""

    method: Words
    target: ClassNumber | Words | Text | None = None
    method_options: Annotated[dict[Words, Scalar], Field(max_length=8)] = Field(
        {}, description="Options of the method."
    )


class MapResponse(BaseModel):
    """A map in the form that a view document has."""

    entry: dict[str, Any]
    arrays: dict[str, Any]


class MaskRequest(_Request):
    """Patches to leave out, numbered row by row from 0."""

    patches: Annotated[list[ClassNumber], Field(max_length=20_000)]
    mode: Literal["fill", "drop"] = "fill"


class MaskResponse(BaseModel):
    """The prediction without these patches."""

    predictions: list[list[str | float]] = Field(description="Label and probability, most probable first.")
    score: float | None = Field(description="The target's score without these patches.")
    whole: float | None = Field(description="The target's score on the whole image.")
    words: str = Field(description="Which score that is.")
    messages: Messages = {}
    forward_ms: float
    total_ms: float

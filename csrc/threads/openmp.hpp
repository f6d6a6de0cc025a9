// The threads of the OpenMP runtime that the process has loaded, if any. It is looked up at run time: linking one would
// bring a second runtime beside torch's own copy, with threads of its own that spin on the same cores.
// torch_parallel_for of torch's stable C interface leads to the same threads. A call of two empty bodies takes 0.66 us
// there and 0.57 us here (torch 2.13, two cores of a Zen 4); it also takes torch's number of threads, not the caller's.
#pragma once

#include "threads/thread_pool.hpp"

namespace tilepress {

// Calls body(context, t) for each t in [0, threads), where the runtime gives as many threads, else for a first few of
// them, and returns when all have. False, with nothing called, where there is no runtime, or none that works: after a
// fork its threads are gone.
bool run_on_openmp(int threads, Body body, void* context);

}  // namespace tilepress

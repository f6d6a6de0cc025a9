// The threads of the OpenMP runtime that the process has loaded, if any. It is looked up at run time: linking one would
// bring a second runtime beside torch's own copy, with threads of its own that spin on the same cores.
#pragma once

#include "threads/thread_pool.hpp"

namespace tilepress {

// Calls body(context, t) for each t in [0, threads), where the runtime gives as many threads, else for a first few of
// them, and returns when all have. False, with nothing called, where there is no runtime, or none that works: after a
// fork its threads are gone.
bool run_on_openmp(int threads, Body body, void* context);

}  // namespace tilepress

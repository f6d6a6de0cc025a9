// Threads that wait between calls, for loops whose steps take microseconds.
#pragma once

#include <cstdint>

namespace tilepress {

using Task = void (*)(void* context, int64_t task);

// Calls run(context, t) once for each t in [0, tasks), on at most `threads` threads, the calling one among them, and
// returns when all are done. Tasks must not throw. They are handed out in rising order, to whoever is free. Idle
// threads sleep: torch's own pool spins on the same cores. A call from inside a task, or while another thread's call is
// under way, runs on its caller alone. A process that was forked makes new threads.
void run_tasks(int64_t tasks, int threads, Task run, void* context);

template <typename Function>
void parallel_for(int64_t tasks, int threads, Function&& function) {
    run_tasks(
        tasks, threads, [](void* context, int64_t task) { (*static_cast<Function*>(context))(task); },
        const_cast<void*>(static_cast<const void*>(&function)));
}

}  // namespace tilepress

// Loops whose steps take microseconds, shared among threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>

namespace tilepress {

using Task = void (*)(void* context, int64_t task);

// Calls run(context, t) once for each t in [0, tasks), on at most `threads` threads, the calling one among them, and
// returns when all are done. Tasks must not throw.
//
// Each thread begins with a share of its own, in rising order, which is the same in every call of as many tasks: its
// part of the weights stays in its caches, and on several sockets in memory that it reached before. Who is done helps
// the others. The threads are those of the OpenMP runtime that torch has loaded, so that no two pools fight for the
// cores. They are a pool of our own without such a runtime (the codec alone is used, or in a forked child, where
// OpenMP's would hang) and within OwnThreads. A call from inside a task runs on its caller alone.
void run_tasks(int64_t tasks, int threads, Task run, void* context);

// While one exists, calls of its thread share their work with our own threads: for many short calls in a row, without
// torch between. OpenMP's threads have all to arrive before a call ends, one that has lost its core too.
class OwnThreads {
  public:
    OwnThreads();
    ~OwnThreads();
    OwnThreads(const OwnThreads&) = delete;
    OwnThreads& operator=(const OwnThreads&) = delete;

  private:
    const bool before_;
};

template <typename Function>
void parallel_for(int64_t tasks, int threads, Function&& function) {
    run_tasks(
        tasks, threads, [](void* context, int64_t task) { (*static_cast<Function*>(context))(task); },
        const_cast<void*>(static_cast<const void*>(&function)));
}

// parallel_for for a function that may throw, such as one that allocates: the first exception is thrown again when all
// tasks have ended.
template <typename Function>
void parallel_for_throwing(int64_t tasks, int threads, Function&& function) {
    std::exception_ptr thrown;
    std::atomic_flag taken = ATOMIC_FLAG_INIT;
    parallel_for(tasks, threads, [&](int64_t task) {
        try {
            function(task);
        } catch (...) {
            if (!taken.test_and_set()) thrown = std::current_exception();
        }
    });
    if (thrown != nullptr) std::rethrow_exception(thrown);
}

}  // namespace tilepress

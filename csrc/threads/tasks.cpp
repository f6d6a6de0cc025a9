#include "threads/tasks.hpp"

#include <utility>

#include "threads/openmp.hpp"
#include "threads/thread_pool.hpp"

namespace tilepress {

namespace {

constexpr int kMaxThreads = 256;

thread_local bool inside_task = false, own_threads = false;

// One call of run_tasks. Thread `t` of `threads` owns tasks [t * tasks / threads, (t + 1) * tasks / threads).
class Call {
  public:
    Call(int64_t tasks, int threads, Task run, void* context)
        : tasks_(tasks), threads_(threads), run_(run), context_(context) {
        for (int thread = 0; thread < threads; ++thread) next_[thread].task = begin(thread);
    }

    void work(int thread) {
        inside_task = true;
        for (int ahead = 0; ahead < threads_; ++ahead) {
            const int owner = (thread + ahead) % threads_;
            const int64_t end = begin(owner + 1);
            int64_t* const next = &next_[owner].task;
            while (__atomic_load_n(next, __ATOMIC_RELAXED) < end) {
                const int64_t task = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
                if (task < end) run_(context_, task);
            }
        }
        inside_task = false;
    }

  private:
    // Not std::atomic, which would write all 16 KB of the array on construction.
    struct alignas(64) Next {
        int64_t task;
    };

    int64_t begin(int thread) const { return thread * tasks_ / threads_; }

    const int64_t tasks_;
    const int threads_;
    const Task run_;
    void* const context_;
    Next next_[kMaxThreads];
};

}  // namespace

void run_tasks(int64_t tasks, int threads, Task run, void* context) {
    if (threads > kMaxThreads) threads = kMaxThreads;
    if (threads > tasks) threads = static_cast<int>(tasks);
    if (threads < 2 || inside_task) {
        for (int64_t task = 0; task < tasks; ++task) run(context, task);
        return;
    }
    Call call(tasks, threads, run, context);
    const Body body = [](void* call, int thread) { static_cast<Call*>(call)->work(thread); };
    if (own_threads || !run_on_openmp(threads, body, &call)) run_on_pool(threads, body, &call);
}

OwnThreads::OwnThreads() : before_(std::exchange(own_threads, true)) {}
OwnThreads::~OwnThreads() { own_threads = before_; }

}  // namespace tilepress

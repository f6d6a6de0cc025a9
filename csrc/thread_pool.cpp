#include "thread_pool.hpp"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace tilepress {

namespace {

constexpr int kMaxWorkers = 255;

thread_local bool inside_task = false;

class Pool {
  public:
    void run(int64_t tasks, int threads, Task run, void* context) {
        std::unique_lock caller(callers_, std::try_to_lock);
        if (!caller.owns_lock() || !grow(threads - 1)) {
            for (int64_t task = 0; task < tasks; ++task) run(context, task);
            return;
        }
        {
            std::lock_guard lock(mutex_);
            run_ = run;
            context_ = context;
            tasks_ = tasks;
            next_.store(0, std::memory_order_relaxed);
            seats_ = threads - 1;
            ++call_;
        }
        if (threads - 1 < workers_) {
            for (int worker = 0; worker + 1 < threads; ++worker) wake_.notify_one();
        } else {
            wake_.notify_all();
        }
        work(run, context, tasks);
        std::unique_lock lock(mutex_);
        seats_ = 0;  // whoever wakes up late finds the call over
        idle_.wait(lock, [this] { return working_ == 0; });
    }

  private:
    // Workers that cannot be had are done without; without any the caller works alone.
    bool grow(int workers) {
        workers = workers < kMaxWorkers ? workers : kMaxWorkers;
        try {
            for (; workers_ < workers; ++workers_) std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
        }
        return workers_ > 0;
    }

    void serve() {
        uint64_t served = 0;
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return seats_ > 0 && call_ != served; });
            served = call_;
            --seats_;
            ++working_;
            const Task run = run_;
            void* const context = context_;
            const int64_t tasks = tasks_;
            lock.unlock();
            work(run, context, tasks);
            lock.lock();
            if (--working_ == 0) idle_.notify_one();
        }
    }

    void work(Task run, void* context, int64_t tasks) {
        inside_task = true;
        for (int64_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks;) run(context, task);
        inside_task = false;
    }

    std::mutex callers_;  // held through a call
    int workers_ = 0;

    std::mutex mutex_;  // of all below but next_
    std::condition_variable wake_, idle_;
    Task run_ = nullptr;
    void* context_ = nullptr;
    int64_t tasks_ = 0;
    uint64_t call_ = 0;
    int seats_ = 0, working_ = 0;
    std::atomic<int64_t> next_{0};
};

// Never destroyed: its threads may outlive static destructors. A forked child has none of its parent's threads and may
// have inherited locks that nobody will release, so it starts with a new one.
std::atomic<Pool*> pool{nullptr};

Pool& shared_pool() {
    Pool* current = pool.load(std::memory_order_acquire);
    if (current == nullptr) {
        Pool* const made = new Pool;
        if (pool.compare_exchange_strong(current, made, std::memory_order_acq_rel)) {
            current = made;
        } else {
            delete made;
        }
    }
    return *current;
}

#if defined(__unix__) || defined(__APPLE__)
const int registered = pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr, std::memory_order_release); });
#endif

}  // namespace

void run_tasks(int64_t tasks, int threads, Task run, void* context) {
    if (threads > tasks) threads = static_cast<int>(tasks);
    if (threads < 2 || inside_task) {
        for (int64_t task = 0; task < tasks; ++task) run(context, task);
        return;
    }
    shared_pool().run(tasks, threads, run, context);
}

}  // namespace tilepress

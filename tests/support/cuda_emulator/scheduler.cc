#include "tests/support/cuda_emulator/scheduler.h"

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/cuda_emulator/async_copies.h"
#include "tests/support/cuda_emulator/fiber.h"
#include "tests/support/cuda_emulator/warpgroup_products.h"

__asm__(
    ".text\n"
    ".globl facet_emulator_switch\n"
    ".type facet_emulator_switch,@function\n"
    "facet_emulator_switch:\n"
    "  pushq %rbp\n"
    "  pushq %rbx\n"
    "  pushq %r12\n"
    "  pushq %r13\n"
    "  pushq %r14\n"
    "  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n"
    "  popq %r14\n"
    "  popq %r13\n"
    "  popq %r12\n"
    "  popq %rbx\n"
    "  popq %rbp\n"
    "  ret\n"
    ".size facet_emulator_switch,.-facet_emulator_switch\n");

#if FACET_EMULATOR_TSAN
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

namespace facet::cuda_emulator {
namespace {

// What a descriptor's fourteen bits can name; shared address 0 stays invalid.
constexpr size_t kWindowBytes = size_t{256} * 1024;
constexpr size_t kWindowFirst = 1024;
// Between two pieces; keeps 1024-byte alignment, which swizzles of 128 bytes need.
constexpr size_t kGapBytes = 1024;
constexpr int kNumBarriers = 16;

struct Thread {
  explicit Thread(void (*entry)()) : fiber(entry) {}

  Fiber fiber;
  ThreadIndices indices;
  bool ready = false;
  bool exited = false;
  bool waited = false;  // For the launches before.
  // Where it stands.
  const char* op = "start";
  Place place;
  void* operands = nullptr;
  const void* waits_for = nullptr;
  AsyncCopies copies;
  WarpgroupProducts products;
};

struct Warp {
  std::array<Thread*, kWarpLanes> lanes{};
  int num_ready = 0;
  int num_arrived = 0;  // At the collective under way.
  char sync = 0;        // As in Barrier.
};

struct Barrier {
  uint32_t arrived = 0;
  uint32_t wanted = 0;
  Place place;
  std::vector<Thread*> waiting;
  char sync = 0;  // Its address orders memory for ThreadSanitizer.
};

struct Piece {
  std::byte* data;
  size_t bytes;
};

void Poison([[maybe_unused]] const void* data, [[maybe_unused]] size_t bytes) {
#if FACET_EMULATOR_ASAN
  __asan_poison_memory_region(data, bytes);
#endif
}

void Unpoison([[maybe_unused]] const void* data, [[maybe_unused]] size_t bytes) {
#if FACET_EMULATOR_ASAN
  __asan_unpoison_memory_region(data, bytes);
#endif
}

void MemoryReleased([[maybe_unused]] void* sync) {
#if FACET_EMULATOR_TSAN
  __tsan_release(sync);
#endif
}

void MemoryAcquired([[maybe_unused]] void* sync) {
#if FACET_EMULATOR_TSAN
  __tsan_acquire(sync);
#endif
}

void ThreadMain();

// The shared memory of the block that runs.
class SharedWindow {
 public:
  SharedWindow() : window_(static_cast<std::byte*>(std::aligned_alloc(kGapBytes, kWindowBytes))) {}

  ~SharedWindow() {
    Unpoison(window_, kWindowBytes);
    std::free(window_);
  }

  void Reset(size_t smem_bytes) {
    smem_bytes_ = smem_bytes;
    used_ = kWindowFirst;
    static_bytes_ = 0;
    static_pieces_.clear();
    dynamic_pieces_.clear();
    Poison(window_, kWindowBytes);
  }

  std::byte* Static(const void* key, size_t bytes, size_t align) {
    const auto [it, is_new] = static_pieces_.try_emplace(key);
    if (is_new) {
      it->second = Carve(bytes, align);
      static_bytes_ += bytes;
    }
    return it->second.data;
  }

  std::byte* Dynamic(size_t offset, size_t bytes, size_t align, Place place) {
    if (offset + bytes > smem_bytes_) {
      Fail(place, "shared memory: %zu bytes at offset %zu, but the launch gave %zu", bytes, offset,
           smem_bytes_);
    }
    const auto [it, is_new] = dynamic_pieces_.try_emplace(offset);
    if (is_new) it->second = Carve(bytes, align);
    if (it->second.bytes != bytes) {
      Fail(place, "shared memory: threads take %zu and %zu bytes at offset %zu", it->second.bytes,
           bytes, offset);
    }
    return it->second.data;
  }

  uint32_t OffsetOf(const void* address, size_t bytes, Place place) const {
    const auto* byte = static_cast<const std::byte*>(address);
    if (byte < window_ + kWindowFirst || byte + bytes > window_ + used_) {
      Fail(place, "address %p is not in this block's shared memory", address);
    }
    return static_cast<uint32_t>(byte - window_);
  }

  std::byte* At(uint32_t offset) { return window_ + offset; }

 private:
  Piece Carve(size_t bytes, size_t align) {
    const size_t begin = (used_ + align - 1) / align * align;
    const size_t end = begin + bytes;
    if (end + kGapBytes > kWindowBytes) Fail(Place(), "shared memory: the window is full");
    used_ = (end + kGapBytes + kGapBytes - 1) / kGapBytes * kGapBytes;
    Unpoison(window_ + begin, bytes);
    std::memset(window_ + begin, 0xff, bytes);
    return {window_ + begin, bytes};
  }

  std::byte* window_;
  size_t smem_bytes_ = 0;
  size_t static_bytes_ = 0;
  size_t used_ = 0;
  std::map<const void*, Piece> static_pieces_;
  std::map<size_t, Piece> dynamic_pieces_;
};

class Scheduler {
 public:
  // Threads that a collective takes together.
  struct Company {
    int first;  // Of threads_.
    int size;
    const char* member;  // What one of them is called.
    int& num_arrived;
  };

  void Run(const GridShape& shape, const std::function<void()>& body);

  Thread& current() { return *current_; }

  bool running() const { return current_ != nullptr; }

  Company WarpOfCurrent() {
    return {.first = current_->indices.warp * kWarpLanes,
            .size = kWarpLanes,
            .member = "lane",
            .num_arrived = WarpOf(*current_).num_arrived};
  }

  Company WarpgroupOfCurrent(const char* op, Place place) {
    const int group = current_->indices.warp * kWarpLanes / kWarpgroupThreads;
    if (group >= static_cast<int>(warpgroup_arrived_.size())) {
      Fail(place, "%s: not a whole warpgroup", op);
    }
    return {.first = group * kWarpgroupThreads,
            .size = kWarpgroupThreads,
            .member = "thread",
            .num_arrived = warpgroup_arrived_[static_cast<size_t>(group)]};
  }

  void Collective(
      const Company& company, const char* op, void* operands, void (*compute)(void**), Place place);
  void Meet(int id, uint32_t num_threads, bool wait, Place place);

  void MeetWarp(Place place) {
    Warp& warp = WarpOf(*current_);
    MemoryReleased(&warp.sync);
    int nothing = 0;
    Collective(
        WarpOfCurrent(), "SyncWarp", &nothing, [](void**) {}, place);
    MemoryAcquired(&warp.sync);
  }

  // The running thread is no longer ready: on to the next.
  void Park() {
    current_->ready = false;
    --WarpOf(*current_).num_ready;
    SwitchTo(Pick(/*leave_warp=*/false));
  }

  void Yield() { SwitchTo(Pick(/*leave_warp=*/true)); }

  void Wake(Thread& thread) {
    thread.ready = true;
    ++WarpOf(thread).num_ready;
  }

  void WakeAll(const void* key) {
    for (int i = 0; i < num_threads_; ++i) {
      Thread& thread = *threads_[i];
      if (thread.waits_for != key) continue;
      thread.waits_for = nullptr;
      Wake(thread);
    }
  }

  // What a fiber does: one thread of a block after the other.
  [[noreturn]] void RunThreads();

  uint32_t Random() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return static_cast<uint32_t>(random_ >> 16);
  }

  void PrintThreads() const;

  SharedWindow& shared() { return shared_; }

  void set_idle_hook(bool (*hook)(bool)) { idle_hook_ = hook; }

 private:
  void RunBlock(const GridShape& shape, uint64_t block);
  void Exit();
  Thread& Pick(bool leave_warp);
  Thread& PickLane(Warp& warp);

  Warp& WarpOf(const Thread& thread) { return warps_[thread.indices.warp]; }

  void SwitchTo(Thread& thread) {
    if (&thread == current_) return;
    Fiber& from = current_ == nullptr ? host_ : current_->fiber;
    current_ = &thread;
    from.SwitchTo(thread.fiber);
  }

  // Other interleavings than "until the next wait" are legal too.
  void MaybeYield() {
    if (options().order == Options::Order::kRandom && Random() % 4 == 0) Yield();
  }

  Fiber host_;
  Thread* current_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  std::vector<std::unique_ptr<Thread>> threads_;
  int num_threads_ = 0;
  int num_alive_ = 0;
  std::vector<Warp> warps_;
  std::vector<int> warpgroup_arrived_;  // Threads of each at the collective under way.
  int warp_index_ = 0;
  std::array<Barrier, kNumBarriers> barriers_;
  SharedWindow shared_;
  uint64_t random_ = 1;
  uint64_t num_launches_ = 0;
  bool (*idle_hook_)(bool block_ended) = nullptr;
  char launch_sync_ = 0;  // A block's threads begin after and end before the host's work.
};

// Never destroyed: its fibers rest inside Quiet, and may not end there under ThreadSanitizer.
Scheduler& TheScheduler() {
  static auto& scheduler = *new Scheduler;
  return scheduler;
}

void Scheduler::Run(const GridShape& shape, const std::function<void()>& body) {
  const Quiet quiet;
  const uint64_t block_threads =
      static_cast<uint64_t>(shape.block.x) * shape.block.y * shape.block.z;
  if (block_threads == 0 || block_threads > 1024 || block_threads % kWarpLanes != 0) {
    Fail(Place(), "a block of %u x %u x %u threads", shape.block.x, shape.block.y, shape.block.z);
  }
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0 || shape.grid.y > 65535 ||
      shape.grid.z > 65535) {
    Fail(Place(), "a grid of %u x %u x %u blocks", shape.grid.x, shape.grid.y, shape.grid.z);
  }
  if (shape.smem_bytes > options().smem_bytes)
    Fail(Place(), "%zu bytes of shared memory", shape.smem_bytes);
  body_ = &body;
  random_ = (options().seed * 1000003 + ++num_launches_) | 1;
  std::vector<uint64_t> order(static_cast<uint64_t>(shape.grid.x) * shape.grid.y * shape.grid.z);
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (options().order == Options::Order::kReverse) std::reverse(order.begin(), order.end());
  if (options().order == Options::Order::kRandom) {
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[Random() % i]);
  }
  for (const uint64_t block : order) RunBlock(shape, block);
  body_ = nullptr;
}

void Scheduler::RunBlock(const GridShape& shape, uint64_t block) {
  num_threads_ = static_cast<int>(shape.block.x * shape.block.y * shape.block.z);
  while (static_cast<int>(threads_.size()) < num_threads_) {
    threads_.push_back(std::make_unique<Thread>(ThreadMain));
  }
  shared_.Reset(shape.smem_bytes);
  warps_.assign(static_cast<size_t>(num_threads_ / kWarpLanes), Warp());
  warpgroup_arrived_.assign(static_cast<size_t>(num_threads_ / kWarpgroupThreads), 0);
  for (Barrier& barrier : barriers_) barrier.arrived = 0;
  const uint3 block_index{.x = static_cast<unsigned>(block % shape.grid.x),
                          .y = static_cast<unsigned>(block / shape.grid.x % shape.grid.y),
                          .z = static_cast<unsigned>(block / shape.grid.x / shape.grid.y)};
  for (int i = 0; i < num_threads_; ++i) {
    Thread& thread = *threads_[i];
    const auto n = static_cast<unsigned>(i);
    thread.indices = {.thread = {.x = n % shape.block.x,
                                 .y = n / shape.block.x % shape.block.y,
                                 .z = n / shape.block.x / shape.block.y},
                      .block = block_index,
                      .block_size = shape.block,
                      .grid_size = shape.grid,
                      .lane = i % kWarpLanes,
                      .warp = i / kWarpLanes};
    thread.exited = false;
    thread.waited = !shape.must_wait;
    thread.op = "start";
    thread.place = Place();
    thread.waits_for = nullptr;
    thread.copies.Clear();
    thread.products = WarpgroupProducts();
    warps_[thread.indices.warp].lanes[thread.indices.lane] = &thread;
    Wake(thread);
  }
  num_alive_ = num_threads_;
  warp_index_ = 0;
  MemoryReleased(&launch_sync_);
  SwitchTo(Pick(/*leave_warp=*/false));
  MemoryAcquired(&launch_sync_);
  if (idle_hook_ != nullptr) idle_hook_(/*block_ended=*/true);
}

void Scheduler::RunThreads() {
  {
    const Quiet quiet;
    current_->fiber.Entered();
  }
  while (true) {
    MemoryAcquired(&launch_sync_);
    (*body_)();
    MemoryReleased(&launch_sync_);
    Exit();
  }
}

// Comes back when the fiber is a thread of the next block.
void Scheduler::Exit() {
  const Quiet quiet;
  Thread& me = *current_;
  if (!me.waited) Fail(me.place, "a thread exits without GridDependencyWait");
  if (!me.copies.empty()) Fail(me.place, "a thread exits before its asynchronous copies landed");
  if (!me.products.products.empty()) {
    Fail(me.products.products[0].place, "a thread exits before it has waited for this product");
  }
  if (WarpOf(me).num_arrived > 0) {
    for (const Thread* lane : WarpOf(me).lanes) {
      if (lane->ready || lane->exited) continue;
      Fail(lane->place, "%s: lane %d has exited", lane->op, me.indices.lane);
    }
  }
  me.exited = true;
  me.ready = false;
  me.op = "exited";
  --WarpOf(me).num_ready;
  --num_alive_;
  // Barrier 0 counts threads that are alive: this may have been the last one it waited for.
  Barrier& all = barriers_[0];
  if (num_alive_ > 0 && all.arrived == static_cast<uint32_t>(num_alive_)) {
    all.arrived = 0;
    std::vector<Thread*> waiting;
    waiting.swap(all.waiting);
    for (Thread* thread : waiting) Wake(*thread);
  }
  if (num_alive_ > 0) {
    SwitchTo(Pick(/*leave_warp=*/false));
  } else {
    Fiber& from = me.fiber;
    current_ = nullptr;
    from.SwitchTo(host_);
  }
}

Thread& Scheduler::PickLane(Warp& warp) {
  const auto order = options().order;
  int skip = order == Options::Order::kRandom
                 ? static_cast<int>(Random() % static_cast<uint32_t>(warp.num_ready))
                 : 0;
  for (int i = 0; i < kWarpLanes; ++i) {
    Thread& lane = *warp.lanes[order == Options::Order::kReverse ? kWarpLanes - 1 - i : i];
    if (lane.ready && skip-- == 0) return lane;
  }
  std::abort();
}

Thread& Scheduler::Pick(bool leave_warp) {
  while (true) {
    if (!leave_warp && warps_[warp_index_].num_ready > 0) return PickLane(warps_[warp_index_]);
    const auto num_warps = static_cast<int>(warps_.size());
    const auto order = options().order;
    const int first = order == Options::Order::kRandom
                          ? static_cast<int>(Random() % static_cast<uint32_t>(num_warps))
                          : warp_index_;
    for (int i = 1; i <= num_warps; ++i) {
      const int step = order == Options::Order::kReverse ? num_warps - i : i;
      const int next = (first + step) % num_warps;
      if (warps_[next].num_ready == 0) continue;
      warp_index_ = next;
      return PickLane(warps_[next]);
    }
    if (idle_hook_ == nullptr || !idle_hook_(/*block_ended=*/false)) {
      Fail(current_ == nullptr ? Place() : current_->place, "deadlock: no thread can go on");
    }
  }
}

void Scheduler::Collective(
    const Company& company, const char* op, void* operands, void (*compute)(void**), Place place) {
  Thread& me = *current_;
  const auto* threads = &threads_[company.first];
  me.op = op;
  me.place = place;
  me.operands = operands;
  if (++company.num_arrived < company.size) {
    for (int i = 0; i < company.size; ++i) {
      if (threads[i]->exited) Fail(place, "%s: %s %d has exited", op, company.member, i);
    }
    Park();
    return;
  }
  void* all[kWarpgroupThreads];
  for (int i = 0; i < company.size; ++i) {
    const Thread& thread = *threads[i];
    if (thread.op != op || thread.place.line != place.line) {
      Fail(place, "%s meets %s %d in %s at %s:%d", op, company.member, i, thread.op,
           thread.place.file, thread.place.line);
    }
    all[i] = thread.operands;
  }
  compute(all);
  company.num_arrived = 0;
  for (int i = 0; i < company.size; ++i) {
    if (threads[i].get() != &me) Wake(*threads[i]);
  }
  MaybeYield();
}

void Scheduler::Meet(int id, uint32_t num_threads, bool wait, Place place) {
  Thread& me = *current_;
  Barrier& barrier = barriers_[id];
  me.op = "barrier";
  me.place = place;
  const uint32_t wanted = id == 0 ? static_cast<uint32_t>(num_alive_) : num_threads;
  if (barrier.arrived > 0 && id == 0 && barrier.place.line != place.line) {
    Fail(place, "SyncThreads: other threads of the block wait at %s:%d", barrier.place.file,
         barrier.place.line);
  }
  if (barrier.arrived > 0 && id != 0 && barrier.wanted != wanted) {
    Fail(place, "barrier %d: %u and %u threads are wanted", id, barrier.wanted, wanted);
  }
  barrier.place = place;
  barrier.wanted = wanted;
  me.products.proxy_fenced = false;
  MemoryReleased(&barrier.sync);
  if (++barrier.arrived == wanted) {
    barrier.arrived = 0;
    std::vector<Thread*> waiting;
    waiting.swap(barrier.waiting);
    for (Thread* thread : waiting) Wake(*thread);
    MemoryAcquired(&barrier.sync);
    MaybeYield();
    return;
  }
  if (!wait) return;
  barrier.waiting.push_back(&me);
  Park();
  MemoryAcquired(&barrier.sync);
}

void Scheduler::PrintThreads() const {
  for (size_t w = 0; w < warps_.size(); ++w) {
    // Lanes that stand at the same place are one line.
    std::map<std::pair<std::string_view, int>, uint32_t> places;
    for (int i = 0; i < kWarpLanes; ++i) {
      const Thread& lane = *warps_[w].lanes[i];
      places[{lane.op, lane.place.line}] |= 1U << i;
    }
    for (const auto& [place, lanes] : places) {
      std::fprintf(stderr, "  warp %zu lanes %08x: %.*s, line %d\n", w, lanes,
                   static_cast<int>(place.first.size()), place.first.data(), place.second);
    }
  }
}

void ThreadMain() { TheScheduler().RunThreads(); }

}  // namespace

Options ParseOptions(const char* text) {
  Options options;
  std::string_view rest = text == nullptr ? "" : text;
  while (!rest.empty()) {
    const std::string_view word = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    if (word == "order=forward") {
      options.order = Options::Order::kForward;
    } else if (word == "order=reverse") {
      options.order = Options::Order::kReverse;
    } else if (word == "order=random") {
      options.order = Options::Order::kRandom;
    } else if (word == "copies=lazy") {
      options.copies = Options::Copies::kLazy;
    } else if (word == "copies=eager") {
      options.copies = Options::Copies::kEager;
    } else if (word == "copies=mixed") {
      options.copies = Options::Copies::kMixed;
    } else if (word.starts_with("smem_kib=")) {
      options.smem_bytes = 1024 * std::strtoull(std::string(word.substr(9)).c_str(), nullptr, 10);
    } else if (word.starts_with("seed=")) {
      options.seed = std::strtoull(std::string(word.substr(5)).c_str(), nullptr, 10);
    } else {
      std::fprintf(stderr, "FACET_EMULATOR: unknown word \"%s\"\n", std::string(word).c_str());
      std::_Exit(kErrorStatus);
    }
  }
  return options;
}

Options& options() {
  static Options options = ParseOptions(std::getenv("FACET_EMULATOR"));
  return options;
}

void Fail(Place place, const char* format, ...) {
  std::fflush(stdout);
  std::fprintf(stderr, "cuda emulator: %s:%d: ", place.file, place.line);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  if (TheScheduler().running()) {
    const ThreadIndices& at = TheScheduler().current().indices;
    std::fprintf(stderr, " [block %u,%u,%u thread %u]\n", at.block.x, at.block.y, at.block.z,
                 at.thread.x);
    TheScheduler().PrintThreads();
  } else {
    std::fputc('\n', stderr);
  }
  std::fflush(stderr);
  std::_Exit(kErrorStatus);
}

void RunGrid(const GridShape& shape, const std::function<void()>& body) {
  TheScheduler().Run(shape, body);
}

const ThreadIndices& Current() { return TheScheduler().current().indices; }

void WarpCollective(const char* op, void* operands, void (*compute)(void**), Place place) {
  const Quiet quiet;
  Scheduler& scheduler = TheScheduler();
  scheduler.Collective(scheduler.WarpOfCurrent(), op, operands, compute, place);
}

void WarpBarrier(Place place) {
  const Quiet quiet;
  TheScheduler().MeetWarp(place);
}

void BlockBarrier(int id, uint32_t num_threads, bool wait, Place place) {
  const Quiet quiet;
  TheScheduler().Meet(id, num_threads, wait, place);
}

void Yield() {
  const Quiet quiet;
  TheScheduler().Yield();
}

uint32_t Random() {
  const Quiet quiet;
  return TheScheduler().Random();
}

void WaitForPredecessor() {
  const Quiet quiet;
  TheScheduler().current().waited = true;
}

void WaitFor(const void* key, const char* what, Place place) {
  Thread& me = TheScheduler().current();
  me.op = what;
  me.place = place;
  me.waits_for = key;
  TheScheduler().Park();
}

void WakeWaiters(const void* key) { TheScheduler().WakeAll(key); }

void SetIdleHook(bool (*hook)(bool)) { TheScheduler().set_idle_hook(hook); }

std::byte* StaticPiece(const void* key, size_t bytes, size_t align) {
  const Quiet quiet;
  return TheScheduler().shared().Static(key, bytes, align);
}

std::byte* DynamicPiece(size_t logical_offset, size_t bytes, size_t align, Place place) {
  const Quiet quiet;
  return TheScheduler().shared().Dynamic(logical_offset, bytes, align, place);
}

uint32_t SharedOffset(const void* address, size_t bytes, Place place) {
  return TheScheduler().shared().OffsetOf(address, bytes, place);
}

std::byte* SharedAt(uint32_t offset) { return TheScheduler().shared().At(offset); }

AsyncCopies& CurrentCopies() { return TheScheduler().current().copies; }

WarpgroupProducts& CurrentProducts() { return TheScheduler().current().products; }

void WarpgroupCollective(const char* op, void* operands, void (*compute)(void**), Place place) {
  const Quiet quiet;
  Scheduler& scheduler = TheScheduler();
  scheduler.Collective(scheduler.WarpgroupOfCurrent(op, place), op, operands, compute, place);
}

Quiet::Quiet() {
#if FACET_EMULATOR_TSAN
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
}

Quiet::~Quiet() {
#if FACET_EMULATOR_TSAN
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
}

}  // namespace facet::cuda_emulator

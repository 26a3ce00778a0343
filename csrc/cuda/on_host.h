// Blocks and threads without a GPU, as strict as one can be: shared memory is exactly as large as asked for and begins
// as NaN, and asynchronous copies arrive as late as they may. For tests only.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

namespace dynconv_mt::cuda::on_host {

// Threads of a phase do not see each other's work, so their order must not matter.
template <typename Body>
void run_threads(int num_threads, const Body& body) {
  static const bool is_reversed = std::getenv("DYNCONV_MT_REVERSED") != nullptr;
  for (int i = 0; i < num_threads; ++i) body(is_reversed ? num_threads - 1 - i : i);
}

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

inline thread_local std::vector<Copy> copies;

inline void begin_copy(void* to, const void* from, size_t bytes) {
  constexpr uintptr_t kAlignment = 16;
  if (reinterpret_cast<uintptr_t>(to) % kAlignment || reinterpret_cast<uintptr_t>(from) % kAlignment) std::abort();
  copies.push_back({to, from, bytes});
}

inline void finish_copies() {
  for (const Copy& copy : copies) std::memcpy(copy.to, copy.from, copy.bytes);
  copies.clear();
}

// A matrix of 16 × 16 numbers as a warp loads it.
template <typename S>
void load_matrix(const char* from, int pitch, float (&to)[16][16]) {
  constexpr uintptr_t kAlignment = 32;
  if (reinterpret_cast<uintptr_t>(from) % kAlignment || pitch % 8) std::abort();
  for (int r = 0; r < 16; ++r) {
    S numbers[16];
    std::memcpy(numbers, from + r * pitch * sizeof(S), sizeof(numbers));
    for (int c = 0; c < 16; ++c) to[r][c] = static_cast<float>(numbers[c]);
  }
}

struct SharedMemory {
  char* data;

  explicit SharedMemory(int bytes) : data(nullptr) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, bytes) != 0) throw std::bad_alloc();
    data = static_cast<char*>(memory);
    if (bytes > 0) std::memset(data, 0xFF, bytes);  // NaN in every format
  }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory() {
    if (!copies.empty()) std::abort();  // a block ended with copies on their way
    std::free(data);
  }
};

}  // namespace dynconv_mt::cuda::on_host

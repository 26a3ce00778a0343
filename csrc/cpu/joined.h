// Joined heads of light_conv (problem.h): the table of their taps, and tables of the gradient by them.
#pragma once

#include "run.h"

namespace dynconv_mt::cpu {
namespace {

// Makes the tables of joined heads begin … end - 1. The taps of a head are made in scratch memory, a row of its own.
void join(const Problem& p, int64_t begin, int64_t end, void* scratch) {
  using A = float;  // heads are not joined in float64
  const Joined& joined = p.joined;
  const int64_t pitch = pitch_of<A>(p.kernel_size), width = p.head_width / joined.count;
  const A* const weight = static_cast<const A*>(p.weight);
  const A scale = p.drop.is_on ? static_cast<A>(p.drop.scale) : A(1);
  A *const rows = static_cast<A*>(scratch), *table = static_cast<A*>(joined.taps) + begin * p.kernel_size * kJoined<A>;
  for (int64_t head = begin; head < end; ++head) {
    const int64_t first = head * joined.count, count = least(joined.count, joined.num_heads - first);
    for (int64_t h = 0; h < count; ++h) {
      copy_row(rows + h * pitch, weight + (first + h) * p.kernel_size, p.kernel_size, pitch, fill_of<A>(p.softmax),
               nullptr);
    }
    if (p.softmax) softmax_rows(rows, count, pitch);
    for (int64_t k = 0; k < p.kernel_size; ++k, table += kJoined<A>) {
      clear(table, kJoined<A>);
      for (int64_t h = 0; h < count; ++h) {
        for (int64_t c = 0; c < width; ++c) table[h * width + c] = rows[h * pitch + k] * scale;
      }
    }
  }
}

// Begins the tables of the gradient by the taps of joined heads, if the run is its tasks' first.
template <typename A>
void start_tables(const Problem& p, const Run& run, const Scratch<A>& sizes, A* tables) {
  if (!run.is_first_sentence(p)) return;
  for (int64_t joined = 0; joined < run.num_heads; ++joined) {
    clear(tables + joined * sizes.grad - sizes.grad_lead, sizes.grad_size);
  }
}

// Writes the tasks' shares of this gradient, tables summed over the channels of each head, if the run is their last.
template <typename A>
void finish_tables(const Problem& p, const Run& run, const Scratch<A>& sizes, const A* tables) {
  if (!run.is_last_sentence(p)) return;
  const int64_t width = p.head_width / p.joined.count, size = p.joined.num_heads * p.kernel_size;
  A* const shares = static_cast<A*>(p.partial) + run.first_task / p.num_heads * size;
  for (int64_t joined = 0; joined < run.num_heads; ++joined, tables += sizes.grad) {
    const int64_t first = (run.first_head + joined) * p.joined.count;
    const int64_t count = least(p.joined.count, p.joined.num_heads - first);
    for (int64_t head = 0; head < count; ++head) {
      A* const share = shares + (first + head) * p.kernel_size;
      for (int64_t k = 0; k < p.kernel_size; ++k) {
        A sum = A(0);
        for (int64_t c = 0; c < width; ++c) sum += tables[k * kJoined<A> + head * width + c];
        share[k] = p.drop.is_on ? sum * static_cast<A>(p.drop.scale) : sum;
      }
    }
  }
}

}  // namespace
}  // namespace dynconv_mt::cpu

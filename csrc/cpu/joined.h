// Joined heads of light_conv (problem.h): the table of their taps, and tables of the gradient by them. All is in float:
// heads are not joined in float64.
#pragma once

#include "run.h"

namespace dynconv_mt::cpu {
namespace {

// Makes the tables of joined heads begin … end - 1. The taps of a head are made in scratch memory, a row of its own.
void join(const Problem& p, int64_t begin, int64_t end, void* scratch) {
  const Joined& joined = p.joined;
  const int64_t pitch = pitch_of<float>(p.kernel_size), width = joined.width;
  const float* const weight = static_cast<const float*>(p.weight);
  const float scale = static_cast<float>(p.drop.scale);  // 1 without DropConnect
  float* const rows = static_cast<float*>(scratch);
  float* table = static_cast<float*>(joined.taps) + begin * p.kernel_size * kJoined<float>;
  for (int64_t head = begin; head < end; ++head) {
    const int64_t first = head * joined.count, count = least(joined.count, joined.num_heads - first);
    for (int64_t h = 0; h < count; ++h) {
      copy_row(rows + h * pitch, weight + (first + h) * p.kernel_size, p.kernel_size, pitch, fill_of<float>(p.softmax),
               nullptr);
    }
    if (p.softmax) softmax_rows(rows, count, pitch);
    for (int64_t k = 0; k < p.kernel_size; ++k, table += kJoined<float>) {
      clear(table, kJoined<float>);
      for (int64_t h = 0; h < count; ++h) {
        for (int64_t c = 0; c < width; ++c) table[h * width + c] = rows[h * pitch + k] * scale;
      }
    }
  }
}

// Begins the tables of the gradient by the taps of joined heads, if the run is its tasks' first.
void start_tables(const Problem& p, const Run& run, const Scratch<float>& sizes, float* tables) {
  if (!run.is_first_sentence(p)) return;
  for (int64_t joined = 0; joined < run.num_heads; ++joined) {
    clear(tables + joined * sizes.grad - sizes.grad_lead, sizes.grad_size);
  }
}

// Writes the tasks' shares of this gradient, tables summed over the channels of each head, if the run is their last.
void finish_tables(const Problem& p, const Run& run, const Scratch<float>& sizes, const float* tables) {
  if (!run.is_last_sentence(p)) return;
  const int64_t width = p.joined.width, size = p.joined.num_heads * p.kernel_size;
  const float scale = static_cast<float>(p.drop.scale);
  float* const shares = static_cast<float*>(p.partial) + run.first_task / p.num_heads * size;
  for (int64_t joined = 0; joined < run.num_heads; ++joined, tables += sizes.grad) {
    const int64_t first = (run.first_head + joined) * p.joined.count;
    const int64_t count = least(p.joined.count, p.joined.num_heads - first);
    for (int64_t head = 0; head < count; ++head) {
      float* const share = shares + (first + head) * p.kernel_size;
      for (int64_t k = 0; k < p.kernel_size; ++k) {
        float sum = 0.0f;
        for (int64_t c = 0; c < width; ++c) sum += tables[k * kJoined<float> + head * width + c];
        share[k] = sum * scale;
      }
    }
  }
}

}  // namespace
}  // namespace dynconv_mt::cpu

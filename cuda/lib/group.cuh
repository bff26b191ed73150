// N neighbours in memory that are moved by one load and one store.
#pragma once

template <typename T, int N>
struct alignas(sizeof(T) * N) Group { T v[N]; };

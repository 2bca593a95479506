/* Computes the row ids of a memory from its exported constants, and compares golden.txt with them.
 *
 *   engram constants TARGET -o constants
 *   engram golden TARGET -o golden
 *   gcc -std=c99 -O2 -I constants engram_rows.c -o engram_rows && ./engram_rows golden/golden.txt
 */
#include "engram_constants.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_TOKENS 4096
#define DEAD (-1)

/* The text so far: ids of the tokenizer and of the hashed vocabulary, and where documents start. */
static int64_t token[MAX_TOKENS], hashed[MAX_TOKENS];
static int starts[MAX_TOKENS];

static int64_t compress(int64_t id) {
#if ENGRAM_HAS_TOKEN_MAP
    return id == DEAD ? DEAD : engram_token_map[id];
#else
    return id;
#endif
}

/* The tokens that position t reads, the newest first; the fill where looking back is blocked. */
static void look_back(int t, uint64_t slots[ENGRAM_MAX_NGRAM]) {
    int blocked = token[t] == DEAD;
    slots[0] = blocked ? ENGRAM_FILL : (uint64_t)hashed[t];
    for (int k = 1; k < ENGRAM_MAX_NGRAM; k++) {
        blocked = blocked || starts[t];
        t--;
        while (ENGRAM_SKIPS_DEAD && t >= 0 && token[t] == DEAD) t--;
        blocked = blocked || t < 0 || token[t] == DEAD || token[t] == ENGRAM_END_ID;
        slots[k] = blocked ? ENGRAM_FILL : (uint64_t)hashed[t];
        if (blocked) t = 0; /* nothing before it is read */
    }
}

/* The row of the layer's table that a column reads: column (order - 2) * heads + head. */
static uint64_t row_of(int layer, int column, const uint64_t slots[ENGRAM_MAX_NGRAM]) {
    uint64_t mix = 0;
    for (int k = 0; k < column / ENGRAM_HEADS + 2; k++)
        mix ^= slots[k] * engram_multipliers[layer][k];
    return engram_offsets[layer][column] + mix % engram_primes[layer][column];
}

static int64_t number(FILE *file) {
    long long found;
    if (fscanf(file, "%lld", &found) != 1) {
        fprintf(stderr, "golden.txt ends early\n");
        exit(2);
    }
    return found;
}

int main(int count, char **words) {
    FILE *file = count == 2 ? fopen(words[1], "r") : NULL;
    int version, read = 0;
    if (!file || fscanf(file, "engram-golden %d", &version) != 1 || version != 1) {
        fprintf(stderr, "usage: engram_rows golden.txt\n");
        return 2;
    }
    int steps = (int)number(file);
    if (number(file) != ENGRAM_LAYERS || number(file) != ENGRAM_COLUMNS) return 2;
    for (int step = 0; step < steps; step++) {
        char name[64];
        if (fscanf(file, "%63s", name) != 1) return 2;
        int first = (int)number(file), end = first + (int)number(file);
        if (end > MAX_TOKENS) return 2;
        for (int t = first; t < end; t++) {
            uint64_t slots[ENGRAM_MAX_NGRAM];
            token[t] = number(file);
            starts[t] = (int)number(file);
            hashed[t] = compress(token[t]);
            int wrong = hashed[t] != number(file);
            look_back(t, slots);
            for (int i = 0; i < ENGRAM_LAYERS * ENGRAM_COLUMNS; i++, read++)
                wrong |= row_of(i / ENGRAM_COLUMNS, i % ENGRAM_COLUMNS, slots) !=
                         (uint64_t)number(file);
            if (wrong) {
                printf("%s: position %d reads other rows\n", name, t);
                return 1;
            }
        }
    }
    printf("%s: %d row ids are equal\n", ENGRAM_LAYOUT, read);
    return 0;
}

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
static int64_t token[MAX_TOKENS], hashed[MAX_TOKENS], starts[MAX_TOKENS];

static int64_t compress(int64_t id) {
#if ENGRAM_HAS_TOKEN_MAP
    return id == DEAD ? DEAD : engram_token_map[id];
#else
    return id;
#endif
}

/* The ids that position t reads, the newest first; the fill where looking back is blocked. */
static void look_back(int64_t t, uint64_t slots[ENGRAM_MAX_NGRAM]) {
    int blocked = token[t] == DEAD;
    slots[0] = blocked ? ENGRAM_FILL : (uint64_t)hashed[t];
    for (int k = 1; k < ENGRAM_MAX_NGRAM; k++) {
        if (!blocked) {
            blocked = starts[t--] != 0;
            while (ENGRAM_SKIPS_DEAD && t >= 0 && token[t] == DEAD) t--;
            blocked = blocked || t < 0 || token[t] == DEAD || token[t] == ENGRAM_END_ID;
        }
        slots[k] = blocked ? ENGRAM_FILL : (uint64_t)hashed[t];
    }
}

/* The row of the layer's table that a column reads: column (order - 2) * heads + head. */
static uint64_t row_of(int layer, int column, const uint64_t slots[ENGRAM_MAX_NGRAM]) {
    uint64_t mix = 0;
    for (int k = 0; k < column / ENGRAM_HEADS + 2; k++)
        mix ^= slots[k] * engram_multipliers[layer][k];
    return engram_offsets[layer][column] + mix % engram_primes[layer][column];
}

static int64_t number(void) {
    long long found;
    if (scanf("%lld", &found) == 1) return found;
    fprintf(stderr, "golden.txt ends early\n");
    exit(2);
}

int main(int count, char **words) {
    char name[64];
    int read = 0;
    if (count != 2 || !freopen(words[1], "r", stdin) || scanf("%63s", name) != 1 || number() != 1)
        return fprintf(stderr, "usage: engram_rows golden.txt\n"), 2;
    int64_t steps = number();
    if (number() != ENGRAM_LAYERS || number() != ENGRAM_COLUMNS) return 2;
    while (steps-- > 0) {
        if (scanf("%63s", name) != 1) return fprintf(stderr, "golden.txt ends early\n"), 2;
        int64_t t = number(), end = t + number();
        for (; t < end && t < MAX_TOKENS; t++) {
            uint64_t slots[ENGRAM_MAX_NGRAM];
            token[t] = number();
            starts[t] = number();
            hashed[t] = compress(token[t]);
            int wrong = hashed[t] != number();
            look_back(t, slots);
            for (int i = 0; i < ENGRAM_LAYERS * ENGRAM_COLUMNS; i++, read++)
                wrong |= (int64_t)row_of(i / ENGRAM_COLUMNS, i % ENGRAM_COLUMNS, slots) != number();
            if (wrong) return printf("%s: position %d reads other rows\n", name, (int)t), 1;
        }
    }
    printf("%s: %d row ids are equal\n", ENGRAM_LAYOUT, read);
    return 0;
}

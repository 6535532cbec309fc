// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package modindex

import "strings"

// glob says whether a modalias pattern matches, as fnmatch(3) without flags
// does: '*' and '?' match '/' too. A boot tries thousands of patterns for each
// device, and nearly all differ before their first wildcard.
func glob(pattern, s string) bool {
	for i := range len(pattern) {
		switch c := pattern[i]; {
		case c == '*' || c == '?' || c == '[':
			return wild(pattern[i:], s[i:])
		case i >= len(s) || c != s[i]:
			return false
		}
	}
	return len(pattern) == len(s)
}

// wild matches from a wildcard on. It goes back to the last star only, so its
// work is bounded by the product of the lengths.
func wild(p, s string) bool {
	retryP, retryS := -1, 0
	i, j := 0, 0
	for j < len(s) {
		if i < len(p) && p[i] == '*' {
			retryP, retryS = i, j
			i++
			continue
		}
		if n, ok := one(p[i:], s[j]); ok {
			i += n
			j++
			continue
		}
		if retryP < 0 {
			return false
		}
		retryS++
		i, j = retryP+1, retryS
	}
	return strings.Trim(p[i:], "*") == ""
}

// one matches a character with the pattern's first element, whose length it returns.
func one(p string, c byte) (n int, ok bool) {
	if p == "" {
		return 0, false
	}
	switch p[0] {
	case '?':
		return 1, true
	case '[':
		if end := strings.IndexByte(p[1:], ']'); end > 0 {
			return end + 2, class(p[1:end+1], c)
		}
	}
	return 1, p[0] == c
}

// class matches the inside of brackets: characters and ranges, with '!' for the opposite.
func class(set string, c byte) bool {
	negated := strings.HasPrefix(set, "!")
	set = strings.TrimPrefix(set, "!")
	for i := 0; i < len(set); i++ {
		if i+2 < len(set) && set[i+1] == '-' {
			if set[i] <= c && c <= set[i+2] {
				return !negated
			}
			i += 2
			continue
		}
		if set[i] == c {
			return !negated
		}
	}
	return negated
}

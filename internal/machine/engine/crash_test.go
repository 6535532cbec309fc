// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

const childEnv = "WHERRY_ENGINE_CHILD"

func childMain(string) {}

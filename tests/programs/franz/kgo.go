// Package tests names the client whose own broker tests run against Levee.
package tests

import _ "github.com/twmb/franz-go/pkg/kgo"

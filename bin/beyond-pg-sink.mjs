#!/usr/bin/env node
import { runExecutable } from './run-executable.mjs'

await runExecutable('beyond-pg-sink')

// npm run build: dist/ from src/, what the published package runs.

import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './ensure.mjs'
import { compiler, tool } from './tool.mjs'

rmSync(join(root, 'dist'), { recursive: true, force: true })
process.exit(tool(compiler, ['-p', 'tsconfig.build.json']) ? 0 : 1)

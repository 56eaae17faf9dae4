import type { Report } from './report.ts'
export const drawReport = (_report: Report): string => ''

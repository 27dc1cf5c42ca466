import { readdir, readFile, writeFile } from "node:fs/promises";

interface Stat {
  pid: number;
  parent: number;
  /** Hundredths of a second that it was running so far, with those of its children that have ended. */
  ticks: number;
}

/** Seconds that a process, with those that it started, was running on a core so far. */
export async function cpuSeconds(pid: number): Promise<number> {
  const ticks = (await familyStats(pid)).reduce((sum, stat) => sum + stat.ticks, 0);
  return ticks / ticksPerSecond;
}

/** USER_HZ, which is the same on every Linux. */
const ticksPerSecond = 100;

async function familyStats(pid: number): Promise<Stat[]> {
  const names = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const stats = await Promise.all(names.map((name) => readStat(Number(name))));
  const found = stats.filter((stat) => stat !== null);
  return found.filter((stat) => stat.pid === pid || stat.parent === pid);
}

async function readStat(pid: number): Promise<Stat | null> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => null);
  if (text === null) {
    return null;
  }
  // The name, in brackets, may have blanks in it. After it: state, parent and so on; utime is the twelfth.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
  return { pid, parent: Number(fields[1]), ticks };
}

/** Begin anew to look for the most that a process holds in memory. Returns what it holds now, in MB. */
export async function watchMemory(pid: number): Promise<number> {
  // The kernel's word for: forget the peak.
  await writeFile(`/proc/${pid}/clear_refs`, "5");
  return peakMb(pid);
}

/** The most that a process has held in memory, in MB, since watchMemory(). */
export async function peakMb(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Math.round(Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1000);
}

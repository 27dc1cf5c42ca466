/** How long this thread computes at some work, in milliseconds: the machine may do anything else meanwhile. */
export function cpuMsOf(work: () => void): number {
  const before = process.threadCpuUsage();
  work();
  const { user, system } = process.threadCpuUsage(before);
  return (user + system) / 1000;
}
